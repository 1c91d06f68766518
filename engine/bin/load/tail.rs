//! [`Tail`]: the end of a stream, and the last row of a file in it, read from the stream itself.

use super::origin::Origin;
use towline::client::{Client, ClientError};
use towline::model::request::Direction;

/// Events of the first look: the last one is ours, most often.
const FIRST_EVENTS: u32 = 1;
/// Events of every further one.
const MORE_EVENTS: u32 = 256;

/// What a stream holds of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tail {
    /// The stream's version; 0: it has no event.
    pub(crate) head: u64,
    /// The last row of the file in it; 0: none. The rows of a file lie in a stream in their order, so every
    /// earlier row of this stream is there too, but for those that were left out.
    pub(crate) last_row: u64,
    /// Rows that the load which stored that one had left out.
    pub(crate) skipped: u64,
}

/// Reads backward from the end until there is an event of this file, or none is left.
///
/// # Errors
/// The server did not answer.
pub(crate) async fn read_tail(client: &Client, stream: &[u8], file: &[u8; 32]) -> Result<Tail, ClientError> {
    let (mut from, mut events_max, mut head) = (0, FIRST_EVENTS, None);
    loop {
        let page = client.read_stream(stream, from, Direction::Backward, events_max).await?;
        let head = *head.get_or_insert(page.head);
        let ours = page.events.iter().filter_map(|event| Origin::decode(&event.metadata));
        if let Some(origin) = ours.into_iter().find(|origin| origin.file == *file) {
            return Ok(Tail { head, last_row: origin.row, skipped: origin.skipped });
        }
        match page.events.last() {
            Some(oldest) if page.more && oldest.version > 1 => from = oldest.version - 1,
            _ => return Ok(Tail { head, last_row: 0, skipped: 0 }),
        }
        events_max = MORE_EVENTS;
    }
}
