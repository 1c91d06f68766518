//! I10: what is as large as it may be is taken and comes to effect; what is larger is refused before it is queued.

use bytes::Bytes;
use towline::model::limits::{
    KEY_BYTES_MAX, METADATA_BYTES_MAX, OPERATIONS_MAX, PRECONDITIONS_MAX, VALUE_BYTES_MAX, WRITE_BYTES_MAX,
};
use towline::model::request::Direction;
use towline::model::{Expect, Lsn, Operation, Read, Record, RecordError, Scan, Target, Write};
use towline::node::{Namespace, NamespaceOptions, Node, NodeOptions, WriteRefused};

/// A limit, and a write to either side of it.
struct Case {
    name: &'static str,
    taken: Write,
    refused: Write,
    because: RecordError,
}

fn over(what: &'static str, limit: usize) -> RecordError {
    RecordError::Limit { what, limit, value: limit + 1 }
}

fn zeros(count: usize) -> Bytes {
    vec![0; count].into()
}

fn key(number: usize) -> Bytes {
    format!("{number:05}").into()
}

fn puts(count: usize) -> Write {
    (0..count).fold(Write::new(), |write, number| write.put(key(number), "x"))
}

fn conditions(count: usize) -> Write {
    (0..count).fold(Write::new().put("k", "v"), |write, number| write.expect(key(number), Expect::Absent))
}

/// Two large values that make a record of just this length.
fn of_length(length: usize) -> Write {
    let with = |second: usize| Write::new().put("k", zeros(VALUE_BYTES_MAX)).put("l", zeros(second));
    let write = with(length - with(0).record().encoded_len());
    assert_eq!(write.record().encoded_len(), length);
    write
}

fn cases() -> Vec<Case> {
    let case = |name, taken, refused, because| Case { name, taken, refused, because };
    let (long, longer) = (zeros(KEY_BYTES_MAX), zeros(KEY_BYTES_MAX + 1));
    let append = |metadata: Bytes, value: Bytes| Write::new().append_with("s", Expect::Any, metadata, value);
    let key_length = || over("key length", KEY_BYTES_MAX);
    let absent = |write: Write, key: Bytes| write.expect(key, Expect::Absent);
    vec![
        case("key", Write::new().put(long.clone(), "v"), Write::new().put(longer.clone(), "v"), key_length()),
        case("key that goes", Write::new().delete(long.clone()), Write::new().delete(longer.clone()), key_length()),
        case(
            "stream",
            Write::new().append(long.clone(), Expect::Any, "e"),
            Write::new().append(longer.clone(), Expect::Any, "e"),
            key_length(),
        ),
        case(
            "key of a precondition",
            absent(Write::new().put("k", "v"), long.slice(1..)),
            absent(Write::new().put("k", "v"), longer.clone()),
            key_length(),
        ),
        case(
            "start of a range",
            Write::new().delete_range(long.clone(), "a"),
            Write::new().delete_range(longer.clone(), "a"),
            key_length(),
        ),
        case(
            "end of a range",
            Write::new().delete_range("a", long),
            Write::new().delete_range("a", longer),
            over("end of the range", KEY_BYTES_MAX),
        ),
        case("empty key", Write::new().put("0", "v"), Write::new().put("", "v"), RecordError::EmptyKey { index: 0 }),
        case(
            "empty key of the second precondition",
            absent(absent(Write::new().put("k", "v"), "y".into()), "z".into()),
            absent(absent(Write::new().put("k", "v"), "y".into()), Bytes::new()),
            RecordError::EmptyKey { index: 1 },
        ),
        case("operations at all", Write::new().put("k", ""), Write::new(), RecordError::NoOperations),
        case(
            "value",
            Write::new().put("k", zeros(VALUE_BYTES_MAX)),
            Write::new().put("k", zeros(VALUE_BYTES_MAX + 1)),
            over("value length", VALUE_BYTES_MAX),
        ),
        case(
            "event",
            append(Bytes::new(), zeros(VALUE_BYTES_MAX)),
            append(Bytes::new(), zeros(VALUE_BYTES_MAX + 1)),
            over("value length", VALUE_BYTES_MAX),
        ),
        case(
            "metadata",
            append(zeros(METADATA_BYTES_MAX), Bytes::new()),
            append(zeros(METADATA_BYTES_MAX + 1), Bytes::new()),
            over("metadata length", METADATA_BYTES_MAX),
        ),
        case(
            "operations",
            puts(OPERATIONS_MAX),
            puts(OPERATIONS_MAX + 1),
            over("number of operations", OPERATIONS_MAX),
        ),
        case(
            "preconditions",
            conditions(PRECONDITIONS_MAX),
            conditions(PRECONDITIONS_MAX + 1),
            over("number of preconditions", PRECONDITIONS_MAX),
        ),
        case(
            "whole write",
            of_length(WRITE_BYTES_MAX),
            of_length(WRITE_BYTES_MAX + 1),
            over("record length", WRITE_BYTES_MAX),
        ),
    ]
}

/// That what each operation of the record leaves is there.
fn assert_there(name: &str, space: &Namespace, record: &Record, lsn: Lsn) {
    for operation in &record.operations {
        match operation {
            Operation::Put { key, value } => {
                let found = space.get(key, Read::Linearizable).unwrap().expect(name);
                assert!(found.value == value && found.version == lsn.get(), "{name}");
            }
            Operation::Append { stream, metadata, value, .. } => {
                let bounds = (1, usize::MAX);
                let read = space.read_stream(stream, 0, Direction::Backward, bounds, Read::Linearizable).unwrap();
                let last = read.events.last().expect(name);
                assert!(last.value == *value && last.metadata == *metadata, "{name}");
            }
            Operation::Delete { key } => assert_eq!(space.get(key, Read::Linearizable).unwrap(), None, "{name}"),
            Operation::DeleteRange { start, end } => {
                let scan = Scan::range(start.clone()..end.clone());
                assert_eq!(space.scan(&scan, Read::Linearizable).unwrap().entries, [], "{name}");
            }
            other => panic!("{name}: {other:?} has no case here"),
        }
    }
}

#[test]
fn i10_each_limit_of_a_write_is_taken_and_one_above_it_is_refused_with_both_numbers_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
    for Case { name, taken, refused, because } in cases() {
        // Each begins with nothing, so that what its preconditions say holds.
        let space = node.create_namespace("space", &NamespaceOptions::default()).unwrap();
        // Behind the start of its epoch, which is a record too.
        space.put("first", "x").unwrap().wait().unwrap();
        let id = space.id();
        let shard = || node.stats().unwrap().shards.into_iter().find(|shard| shard.namespace == id).unwrap();
        for number in [1, 2] {
            let end = shard().end;
            match space.write(&refused).map(drop) {
                Err(WriteRefused::Record(error)) => assert_eq!(error, because, "{name}"),
                other => panic!("{name}: {other:?}"),
            }
            assert_eq!((shard().queue_bytes, shard().end), (0, end), "{name}: nothing is queued");
            if number == 1 {
                let written = space.write(&taken).unwrap_or_else(|refused| panic!("{name}: {refused}"));
                let written = written.wait().unwrap();
                written.outcome.applied().unwrap_or_else(|rejection| panic!("{name}: {rejection}"));
                assert_eq!(written.lsn, end.next(), "{name}: the first write that was taken");
                assert_there(name, &space, taken.record(), written.lsn);
            } else {
                let next = space.put("next", "x").unwrap().wait().unwrap();
                assert_eq!(next.lsn, end.next(), "{name}: nothing lies between");
            }
        }
        node.drop_namespace("space").unwrap();
    }
    node.close().unwrap();
}

#[test]
fn what_a_refused_write_says_names_the_limit_and_what_was_found() {
    for Case { name, because, .. } in cases() {
        let said = because.to_string();
        let holds = |number: usize| said.contains(&number.to_string());
        match because {
            RecordError::Limit { what, limit, value } => {
                assert!(said.contains(what) && holds(limit) && holds(value), "{name}: {said}");
            }
            RecordError::EmptyKey { index } => assert!(holds(index) && holds(KEY_BYTES_MAX), "{name}: {said}"),
            RecordError::NoOperations => assert!(said.contains("one operation"), "{name}: {said}"),
            other => panic!("{name}: {other}"),
        }
    }
}

/// A key that is none must not be carried around in an answer, least of all twice.
#[test]
fn a_key_that_is_too_long_is_told_as_that_also_where_the_write_would_touch_two_shards() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
    let space = node.create_namespace("space", &NamespaceOptions::default().split_at(["m"])).unwrap();
    let long = Bytes::from(vec![b'z'; KEY_BYTES_MAX + 1]);
    let mut conditional = Write::new().put("a", "v").into_record();
    conditional.preconditions.push(towline::model::Precondition {
        target: Target::Stream,
        key: long.clone(),
        expect: Expect::Absent,
    });
    for write in
        [Write::new().put("a", "v").put(long.clone(), "v"), Write::new().delete_range("a", long), conditional.into()]
    {
        match space.write(write).map(drop) {
            Err(WriteRefused::Record(RecordError::Limit { limit: KEY_BYTES_MAX, value, .. })) => {
                assert_eq!(value, KEY_BYTES_MAX + 1);
            }
            other => panic!("{other:?}"),
        }
    }
    node.close().unwrap();
}
