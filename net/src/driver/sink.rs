//! [`EventSink`]: where a connection's events go.

use std::fmt;

use tokio::sync::mpsc;

use crate::event::Event;

use super::ConnectionHandle;

/// The receiving end of [`EventSink::channel`]. When it is dropped the connection closes.
pub type EventReceiver = mpsc::Receiver<Event>;

/// Where a connection's events go.
///
/// ```
/// use towline_net::driver::EventSink;
/// let sink = EventSink::callback(|event| println!("{event:?}"));
/// let (sink, receiver) = EventSink::channel(64);
/// ```
pub struct EventSink(pub(super) Kind);

pub(super) enum Kind {
    Callback(Callback),
    Channel(mpsc::Sender<Event>),
}

pub(super) type Callback = Box<dyn FnMut(&ConnectionHandle, Event) + Send>;

impl EventSink {
    /// Calls `callback` in the connection's task, one event at a time, in order. It must not block: it would hold up
    /// the connection's heartbeats. It may call the handle. What it keeps is bounded by the credit that it has not
    /// given back by `consumed`.
    ///
    /// A callback that owns a clone of the handle keeps the connection open until somebody closes it; see
    /// [`Self::callback_with_handle`].
    pub fn callback(mut callback: impl FnMut(Event) + Send + 'static) -> Self {
        Self(Kind::Callback(Box::new(move |_, event| callback(event))))
    }

    /// As [`Self::callback`], and lends the connection's handle to each call, from the first event on (which may
    /// come before [`spawn`](super::spawn) has returned). It does not keep the connection open by itself.
    pub fn callback_with_handle(callback: impl FnMut(&ConnectionHandle, Event) + Send + 'static) -> Self {
        Self(Kind::Callback(Box::new(callback)))
    }

    /// A channel of `capacity` events (at least one). While it is full, events wait in the connection, whose
    /// windows bound them; heartbeats go on.
    #[must_use]
    pub fn channel(capacity: usize) -> (Self, EventReceiver) {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        (Self(Kind::Channel(sender)), receiver)
    }
}

impl fmt::Debug for EventSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Kind::Callback(_) => f.write_str("EventSink::callback"),
            Kind::Channel(_) => f.write_str("EventSink::channel"),
        }
    }
}
