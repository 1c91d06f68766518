//! The states of a stream's two halves. Each cell, a state of both halves and something that happens, is driven anew from the
//! handshake; the states that follow show in what the stream does next.

use towline_net::{Event, Lane, ResetCode, SendError, Side, StreamId, StreamKind};

use super::peer::{Frame, World, words};
use super::{Row, table};
use crate::world::plain;

/// Lives of the sending half, in the words of the book. Ended is by END, or by Reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sending {
    Open,
    Finishing,
    EndedByEnd,
    EndedByReset,
}

/// Lives of the receiving half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Receiving {
    Open,
    Discarding,
    Ended,
    Reset,
}

/// Where a cell begins.
#[derive(Clone, Copy, Debug)]
struct Cell {
    side: Side,
    /// Who opened the stream.
    opener: Side,
    sending: Sending,
    receiving: Receiving,
}

const SIDES: [Side; 2] = [Side::Dialer, Side::Acceptor];

/// All states that the two halves can be in together. A half that discards, or was reset, has its other half ended.
fn cells() -> Vec<Cell> {
    let halves = [
        (Sending::Open, Receiving::Open),
        (Sending::Open, Receiving::Ended),
        (Sending::Finishing, Receiving::Open),
        (Sending::Finishing, Receiving::Ended),
        (Sending::EndedByEnd, Receiving::Open),
        (Sending::EndedByEnd, Receiving::Ended),
        (Sending::EndedByEnd, Receiving::Reset),
        (Sending::EndedByReset, Receiving::Discarding),
        (Sending::EndedByReset, Receiving::Ended),
        (Sending::EndedByReset, Receiving::Reset),
    ];
    let sides = SIDES.into_iter().flat_map(|side| SIDES.map(|opener| (side, opener)));
    sides
        .flat_map(|(side, opener)| halves.map(|(sending, receiving)| Cell { side, opener, sending, receiving }))
        .collect()
}

impl Sending {
    /// Whether a row's first cell names it.
    fn is_in(self, state: &str) -> bool {
        let name = match self {
            Self::Open => "open",
            Self::Finishing => "finishing",
            Self::EndedByEnd => return ["ended", "ended by END"].contains(&state),
            Self::EndedByReset => "ended",
        };
        state.split(", ").any(|one| one == name)
    }

    /// As the third cell of a row names it.
    const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Finishing => "finishing",
            Self::EndedByEnd | Self::EndedByReset => "ended",
        }
    }
}

impl Receiving {
    const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Discarding => "discarding",
            Self::Ended => "ended",
            Self::Reset => "reset",
        }
    }
}

/// What happens in a cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Happens {
    /// A message comes. In fragments: it is as long as it takes to be owed credit.
    Data,
    End,
    Reset,
    Credit,
    /// The stream is opened, again.
    Open,
    /// This side sends a message.
    Send,
    Finish,
    /// What waits has its credit.
    Granted,
    ResetHere,
}

const ALL: [Happens; 9] = [
    Happens::Data,
    Happens::End,
    Happens::Reset,
    Happens::Credit,
    Happens::Open,
    Happens::Send,
    Happens::Finish,
    Happens::Granted,
    Happens::ResetHere,
];

/// A stream in one of its cells, with a message that was delivered and is not consumed: otherwise a stream that is over
/// would be forgotten, and its state not be seen. What this side sends waits for credit.
struct Stream {
    world: World,
    id: u32,
}

/// Within a lane, and longer than half of a stream's window: a second one waits.
const LONG: usize = 12 << 10;
/// More than an eighth of the stream's window.
const OWED: usize = 2100;
/// More than an eighth of the connection's.
const MUCH_OWED: usize = 9000;
const CODE: u32 = 300;

impl Stream {
    fn at(cell: Cell) -> Self {
        let mut world = World::ready(cell.side);
        let id = World::first_stream(cell.opener);
        if cell.opener == cell.side {
            assert_eq!(world.one.open(StreamKind::Request, Lane::Request).map(StreamId::get), Ok(id));
            world.said();
        } else {
            world.tell_open(id);
        }
        world.tell_message(id, b"held");
        let mut stream = Self { world, id };
        stream.events();
        // The sending half.
        if cell.sending == Sending::EndedByEnd {
            stream.world.one.finish(StreamId::new(id));
            stream.world.said();
        } else {
            // The first has its credit and goes, the second waits for it.
            stream.send(LONG).unwrap();
            stream.send(LONG).unwrap();
            stream.world.said();
        }
        if cell.sending == Sending::Finishing {
            stream.world.one.finish(StreamId::new(id));
        }
        if cell.sending == Sending::EndedByReset {
            stream.world.one.reset(StreamId::new(id), ResetCode(CODE));
            stream.world.said();
        }
        // The receiving half.
        match cell.receiving {
            Receiving::Open | Receiving::Discarding => {}
            Receiving::Ended => stream.world.tell_end(id),
            Receiving::Reset => stream.world.tell_reset(id, CODE),
        }
        assert_eq!(words(&stream.world.said()), "nothing");
        stream.events();
        stream
    }

    fn send(&mut self, length: usize) -> Result<(), SendError> {
        self.world.one.send(StreamId::new(self.id), vec![7; length].into(), plain())
    }

    /// All but the messages, which are counted.
    fn events(&mut self) -> (usize, Vec<Event>) {
        let all: Vec<_> = std::iter::from_fn(|| self.world.one.poll_event()).collect();
        let (messages, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|event| matches!(event, Event::Message { .. }));
        (messages.len(), others)
    }

    fn grant(&mut self) {
        self.world.tell_credit(0, 1 << 30);
        self.world.tell_credit(self.id, 1 << 30);
    }

    fn happen(&mut self, happens: Happens, cell: Cell) {
        let id = StreamId::new(self.id);
        match happens {
            Happens::Data if cell.receiving == Receiving::Discarding => {
                self.world.tell_message(self.id, &[7; MUCH_OWED])
            }
            Happens::Data => self.world.tell_message(self.id, &[7; OWED]),
            Happens::End => self.world.tell_end(self.id),
            Happens::Reset => self.world.tell_reset(self.id, CODE),
            Happens::Credit => self.world.tell_credit(self.id, 1),
            Happens::Open => self.world.tell_open(self.id),
            Happens::Send => drop(self.send(OWED)),
            Happens::Finish => self.world.one.finish(id),
            Happens::Granted => self.grant(),
            Happens::ResetHere => self.world.one.reset(id, ResetCode(CODE)),
        }
        self.world.one.check();
    }
}

/// A stream after something happened in a cell, and what was said then.
fn after(cell: Cell, happens: Happens) -> (Stream, Vec<Frame>) {
    let mut stream = Stream::at(cell);
    if happens == Happens::Send {
        stream.grant();
        stream.world.said();
    }
    stream.happen(happens, cell);
    let said = stream.world.said();
    (stream, said)
}

/// The state of the sending half, by what it does next.
fn sending_after(cell: Cell, happens: Happens) -> &'static str {
    let (mut stream, _) = after(cell, happens);
    if stream.send(1).is_ok() {
        return "open";
    }
    stream.grant();
    let ends = stream.world.said().iter().any(|frame| frame.words() == "Data with END");
    if ends { "finishing" } else { "ended" }
}

/// The state of the receiving half, by what it takes next.
fn receiving_after(cell: Cell, happens: Happens) -> &'static str {
    let (mut stream, _) = after(cell, happens);
    stream.events();
    stream.world.tell_message(stream.id, b"next");
    let takes_data = !stream.world.one.is_closed();
    if takes_data {
        return if stream.events().0 == 1 { "open" } else { "discarding" };
    }
    let (mut stream, _) = after(cell, happens);
    stream.world.tell_reset(stream.id, CODE);
    if stream.world.one.is_closed() { "reset" } else { "ended" }
}

/// The row of the table of receiving halves for what comes, or none: then it is forbidden.
fn receiving_row(rows: &[Row], state: Receiving, happens: Happens) -> Option<&Row> {
    let is_it = |row: &&Row| {
        let says = |words: &str| row.happens == words || row.happens.starts_with(&format!("{words}:"));
        match happens {
            Happens::Data => says("Data") || row.happens.starts_with("Data;"),
            // An END is Data: where it has no row of its own, it has that one's.
            Happens::End => says("Data with END") || row.happens.starts_with("Data;"),
            Happens::Reset => {
                says("Reset")
                    || (state == Receiving::Reset && row.happens.ends_with("; after reset also a second Reset"))
            }
            Happens::ResetHere => says("this side resets the stream"),
            _ => false,
        }
    };
    rows.iter().filter(|row| row.state.split(", ").any(|one| one == state.name())).find(is_it)
}

/// The row of the table of sending halves.
fn sending_row(rows: &[Row], cell: Cell, happens: Happens) -> Option<&Row> {
    let is_it = |row: &&Row| match happens {
        Happens::Send => row.happens == "a message, and credit for all of it",
        Happens::Finish => row.happens == "this side finishes",
        Happens::Granted => row.happens == "what was queued has gone",
        Happens::ResetHere => {
            row.happens == "this side resets"
                || (row.happens == "this side resets, and the receiving half is open"
                    && cell.receiving == Receiving::Open)
        }
        Happens::Reset => ["Reset comes", "Credit, or a Reset that comes"].contains(&row.happens),
        Happens::Credit => row.happens == "Credit, or a Reset that comes",
        Happens::Data | Happens::End | Happens::Open => false,
    };
    rows.iter().filter(|row| cell.sending.is_in(row.state)).find(is_it)
}

/// What was said, in the words of the table of sending halves.
fn of_sending(stream: &Stream, said: &[Frame], happens: Happens) -> String {
    let all = words(said);
    let dropped =
        if stream.world.one.queued_bytes() == 0 { "what was queued is dropped" } else { "it is still queued" };
    match happens {
        Happens::Send => {
            let (last, before) = said.split_last().expect("it goes");
            let is_part = |frame: &Frame| frame.words() == "Data" && frame.header.flags.0 & 1 == 1;
            let fits = before.iter().all(is_part) && last.words() == "Data" && last.header.flags.0 == 0;
            if fits { "Data, the last one without MORE".into() } else { all }
        }
        Happens::Finish if said.is_empty() => "nothing yet".into(),
        Happens::Granted => {
            let (last, before) = said.split_last().expect("it goes");
            assert!(before.iter().all(|frame| frame.words() == "Data"), "{all}");
            last.words()
        }
        Happens::Reset if all == "Reset 0" => format!("Reset 0; {dropped}"),
        Happens::ResetHere if all == format!("Reset {CODE}") => format!("Reset with its code; {dropped}"),
        _ => all,
    }
}

/// A row says that something is dropped only where something can be queued.
fn says(row: &Row, seen: &str) -> bool {
    row.said == seen || seen.strip_suffix("; what was queued is dropped") == Some(row.said)
}

/// What happens to the sending half: by its row, or nothing does.
fn drive_sending(rows: &[Row], cell: Cell, happens: Happens) -> Option<Row> {
    let row = sending_row(rows, cell, happens).cloned();
    let (stream, said) = after(cell, happens);
    if stream.world.one.is_closed() {
        // The other table's, and it forbids what came.
        return None;
    }
    let place = format!("{happens:?} at {cell:?}: the book says {row:?}");
    let Some(row) = row else {
        if matches!(happens, Happens::Send | Happens::Finish | Happens::Granted | Happens::ResetHere) {
            assert!(
                !said.iter().any(|frame| [4, 6].contains(&frame.header.kind)) || cell.sending == Sending::Open,
                "{place}"
            );
        }
        return None;
    };
    let seen = of_sending(&stream, &said, happens);
    assert!(says(&row, &seen), "what is said: {seen}: {place}");
    assert_eq!(sending_after(cell, happens), row.then, "what follows: {place}");
    Some(row)
}

fn drive_receiving(rows: &[Row], of_sending_halves: &[Row], cell: Cell, happens: Happens) -> Option<Row> {
    let row = receiving_row(rows, cell.receiving, happens).cloned();
    let (mut stream, said) = after(cell, happens);
    let all = words(&said);
    let place = format!("{happens:?} at {cell:?}: the book says {row:?}");
    let Some(row) = row else {
        // In no table: what comes is forbidden, what this side does has no effect on this half.
        let is_forbidden = matches!(happens, Happens::Data | Happens::End | Happens::Reset | Happens::Open);
        assert_eq!(stream.world.one.is_closed(), is_forbidden, "{place}");
        assert!(!is_forbidden || all == "GoAway 3007", "what is said: {all}: {place}");
        if !is_forbidden {
            assert_eq!(receiving_after(cell, happens), cell.receiving.name(), "what follows: {place}");
        }
        return None;
    };
    if row.then == "the connection is closed" {
        assert_eq!(all, row.said, "what is said: {place}");
        assert!(stream.world.one.is_closed(), "what follows: {place}");
        return Some(row);
    }
    match row.said {
        "see the sending half" => {
            let of_it = sending_row(of_sending_halves, cell, happens);
            let seen = of_sending(&stream, &said, happens);
            assert!(of_it.is_some_and(|row| says(row, &seen)), "what is said: {seen} {of_it:?}: {place}");
        }
        "Credit, when it is consumed and due" => {
            assert_eq!(all, "nothing", "before it is consumed: {place}");
            let Some(Event::Message { charge, .. }) = stream.world.one.poll_event() else { panic!("{place}") };
            stream.world.one.consumed(StreamId::new(stream.id), charge);
            assert_eq!(words(&stream.world.said()), "Credit", "after it is: {place}");
        }
        "Credit of the connection, when due" => {
            assert_eq!(all, "Credit of the connection", "what is said: {place}");
            assert_eq!(stream.events(), (0, vec![]), "dropped: {place}");
        }
        said => assert_eq!(all, said, "what is said: {place}"),
    }
    assert_eq!(receiving_after(cell, happens), row.then, "what follows: {place}");
    Some(row)
}

#[test]
fn each_row_of_the_tables_of_streams_is_what_a_stream_does_and_what_has_no_row_is_forbidden_or_without_effect() {
    let sending = table("### Of a stream", "sending half");
    let receiving = table("### Of a stream", "receiving half");
    // Where a row is lost, what comes counts as forbidden, and that is seen below; but not where the code forbids it, too.
    assert_eq!((sending.len(), receiving.len()), (7, 9), "the book has lost a row, or has a new one");
    let mut driven = Vec::new();
    for cell in cells() {
        for happens in ALL {
            driven.extend(drive_sending(&sending, cell, happens));
            driven.extend(drive_receiving(&receiving, &sending, cell, happens));
        }
    }
    for row in sending.iter().chain(&receiving) {
        assert!(driven.contains(row), "no cell drives this row: {row:?}");
    }
}

/// The states in which the cells begin are those that the book has, by the same look that tells what follows.
#[test]
fn a_cell_begins_in_the_states_that_it_says() {
    for cell in cells() {
        // No credit above what was granted is without effect.
        let seen = (sending_after(cell, Happens::Credit), receiving_after(cell, Happens::Credit));
        assert_eq!(seen, (cell.sending.name(), cell.receiving.name()), "{cell:?}");
    }
}
