//! `towline shard assign` of real processes, killed and paused.

use crate::processes::Processes;
use rustix::process::Signal;
use serde_json::Value;
use std::process::{Command, Stdio};
use towline::client::{Client, WriteError};
use towline::model::{Read, Write};

/// Writes number after number until `stop`, and returns those that were acknowledged.
async fn write_on(client: &Client, from: u32, stop: &std::sync::atomic::AtomicBool) -> Vec<u32> {
    let (mut acknowledged, mut number) = (Vec::new(), from);
    while !stop.load(std::sync::atomic::Ordering::SeqCst) {
        number += 1;
        match client.namespace("default").write(Write::new().put(format!("{number:08}"), "x")).await {
            Ok(receipt) => match receipt.await {
                Ok(_) => acknowledged.push(number),
                Err(WriteError::Unknown { .. } | WriteError::Refused(_)) => {}
                Err(other) => panic!("{other}"),
            },
            Err(error) => panic!("no leader was found: {error}"),
        }
    }
    acknowledged
}

#[test]
fn i1_leaders_are_killed_and_paused_others_are_assigned_and_every_acknowledged_write_is_there() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut all = Processes::start_all();
    let client = runtime.block_on(all.client());
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (writer, ended) = (client.clone(), std::sync::Arc::clone(&stop));
    let writing = runtime.spawn(async move { write_on(&writer, 0, &ended).await });
    all.until("node 1 has written", 0, |status| status["committed"].as_u64() > Some(20));

    all.kill(0);
    let assigned = all.assign("2");
    assert_eq!(
        (&assigned["leader"], &assigned["serving"], &assigned["shard"]),
        (&2.into(), &true.into(), &1024.into())
    );
    assert_eq!((&assigned["epoch"]["version"], &assigned["epoch"]["term"]), (&1024.into(), &(1 << 20).into()));
    assert!(assigned["took_ms"].is_u64());
    let committed = all.status(1)["committed"].as_u64();
    all.until("node 2 has written", 1, |status| status["committed"].as_u64() > committed.map(|lsn| lsn + 20));

    // A leader that is only paused does not know that it was replaced; it hears it as soon as it speaks to anybody.
    all.start(0);
    all.until("node 1 follows node 2", 0, |status| status["leader"] == 2 && status["applied"].as_u64() > committed);
    all.signal(1, Signal::STOP);
    let assigned = all.assign("1");
    assert_eq!(assigned["leader"], 1);
    let committed = all.status(0)["committed"].as_u64();
    all.until("node 1 has written", 0, |status| status["committed"].as_u64() > committed.map(|lsn| lsn + 20));
    all.signal(1, Signal::CONT);
    all.until("node 2 follows node 1", 1, |status| status["leader"] == 1 && status["serving"] == false);

    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    let acknowledged = runtime.block_on(writing).unwrap();
    assert!(acknowledged.len() > 60, "{}", acknowledged.len());
    runtime.block_on(async {
        for chunk in acknowledged.chunks(1000) {
            let keys = chunk.iter().map(|number| format!("{number:08}"));
            let found = client.namespace("default").multi_get(keys, Read::Eventual).await.unwrap();
            let lost: Vec<_> = chunk.iter().zip(&found).filter(|(_, found)| found.is_none()).collect();
            assert!(lost.is_empty(), "I1: acknowledged and lost: {lost:?}");
        }
    });
    let end = all.status(0)["end"].clone();
    for place in 0..3 {
        all.until("all have applied all", place, |status| status["applied"] == end);
    }
    let digests = all.towline(&["digest", "--json"]);
    assert!(digests.status.success(), "I4: {}", String::from_utf8_lossy(&digests.stderr));
}

#[test]
fn the_command_says_who_leads_and_since_which_epoch_or_why_not_and_by_its_exit_code() {
    let mut all = Processes::start_all();
    all.until("node 1 leads", 0, |status| status["serving"] == true);
    let output = all.towline(&["shard", "assign", "--leader", "3"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with("node 3 leads shard 1024 in epoch 1024.2097152, after "), "{said}");
    let status = all.towline(&["status"]);
    assert!(status.status.success());
    let table = String::from_utf8(status.stdout).unwrap();
    assert!(table.contains("leads") && table.contains("follows 3") && table.contains("1024.2097152"), "{table}");

    // Connected, and asleep: what is promised stands.
    let alone = all.addresses[2].clone();
    (0..2).for_each(|place| all.signal(place, Signal::STOP));
    let mut program = Command::new(env!("CARGO_BIN_EXE_towline"));
    program.args(["shard", "assign", "--leader", "3", "--within", "1", "--addr", &alone]);
    let output = program.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("TW-8031: node 3 does not serve in epoch 1024.5242880 yet: the assignment stands"), "{said}");
    assert_eq!(output.status.code(), Some(3));
    (0..2).for_each(|place| all.signal(place, Signal::CONT));
    all.until("it comes into force", 2, |status| status["serving"] == true && status["epoch"]["term"] == 5 << 20);

    (0..2).for_each(|place| all.kill(place));
    let mut program = Command::new(env!("CARGO_BIN_EXE_towline"));
    program.args(["shard", "assign", "--leader", "3", "--within", "1", "--json", "--addr", &alone]);
    let output = program.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert!(said["error"].as_str().is_some_and(|error| error.starts_with("TW-8030: node 3 reaches 1 of 3")), "{said}");
    // One that does not answer can't be assigned; whoever is asked says where it should be.
    program = Command::new(env!("CARGO_BIN_EXE_towline"));
    program.args(["shard", "assign", "--leader", "1", "--timeout", "1", "--addr", &alone]);
    let output = program.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("TW-7002") && said.contains(&all.addresses[0]), "{said}");
    assert_eq!(output.status.code(), Some(1));
}
