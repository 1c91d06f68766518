//! Why a node has stopped by itself, for whoever runs it.

use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;

type Call = Box<dyn FnOnce(String) + Send>;

/// The first reason for which a node stopped; shared by its threads and its owner.
#[derive(Clone, Default)]
pub(super) struct Health(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    failure: Option<String>,
    calls: Vec<Call>,
}

impl Health {
    /// The node stops for this reason. Only the first one counts: the others follow from it.
    pub(super) fn fail(&self, reason: &str) {
        let mut state = self.0.lock();
        if state.failure.is_some() {
            return;
        }
        state.failure = Some(reason.to_owned());
        let calls = std::mem::take(&mut state.calls);
        drop(state);
        calls.into_iter().for_each(|call| call(reason.to_owned()));
    }

    /// The reason, if it stopped.
    pub(super) fn failure(&self) -> Option<String> {
        self.0.lock().failure.clone()
    }

    /// Calls with the reason once the node stops; at once if it has.
    #[cfg(feature = "cluster")]
    pub(super) fn on_failure(&self, call: impl FnOnce(String) + Send + 'static) {
        let mut state = self.0.lock();
        match state.failure.clone() {
            Some(reason) => {
                drop(state);
                call(reason);
            }
            None => state.calls.push(Box::new(call)),
        }
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Health").field(&self.failure()).finish()
    }
}
