//! The style and the structure of the repository, as tests: what a reviewer would otherwise look for by eye.
//!
//! One test for each rule; a failure lists the places. Each rule also meets small examples of what it must
//! refuse, so a rule that has stopped looking fails too. The rules that have exceptions keep them in lists in
//! `tidy/`, and those lists may only shrink.
//!
//! It reads sources as text and needs nothing but the standard library.

#[path = "tidy/codes.rs"]
mod codes;
#[path = "tidy/examples.rs"]
mod examples;
#[path = "tidy/floors.rs"]
mod floors;
#[path = "tidy/golden.rs"]
mod golden;
#[path = "tidy/invariants.rs"]
mod invariants;
#[path = "tidy/layout.rs"]
mod layout;
#[path = "tidy/paths.rs"]
mod paths;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/words.rs"]
mod words;

use source::Repository;

/// Fails with every offence, one a line.
fn none(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}\n{} place(s):\n  {}\n", offences.len(), offences.join("\n  "));
}

#[test]
fn arrows_between_the_floors_point_down_only() {
    let repository = Repository::read();
    none(
        "A floor uses what lies below it (the table in engine/tests/tidy/floors.rs and docs/src/architecture.md).",
        &floors::forbidden_arrows(&repository),
    );
}

#[test]
fn every_folder_of_the_engine_is_a_floor_of_the_table() {
    let repository = Repository::read();
    none(
        "A new folder is a new floor: give it a row in engine/tests/tidy/floors.rs and in docs/src/architecture.md.",
        &floors::unknown_floors(&repository),
    );
}

#[test]
fn the_wal_and_the_transport_depend_on_no_other_crate_of_ours() {
    let repository = Repository::read();
    none(
        "towline-wal and towline-net stand alone: they name neither each other nor the engine.",
        &floors::crates_that_lean(&repository),
    );
}

#[test]
fn sans_io_modules_do_no_io_and_read_no_clock() {
    let repository = Repository::read();
    none(
        "Time, chance and bytes come in as arguments, otherwise the simulator does not run this code as it is.",
        &floors::io_in_sans_io(&repository),
    );
}

#[test]
fn libraries_with_one_home_are_named_there_only() {
    let repository = Repository::read();
    none(
        "bincode belongs to model::codec, RocksDB to state, openraft to control::adapter.",
        &floors::strayed_libraries(&repository),
    );
}

#[test]
fn files_stay_below_800_lines_but_for_a_list_that_shrinks() {
    let repository = Repository::read();
    none(
        "A file past 800 lines holds two concepts: split it by rule.",
        &words::long_files(&repository, &source::list("long_files.txt")),
    );
}

#[test]
fn files_and_folders_are_named_by_what_they_define() {
    let repository = Repository::read();
    none("Name a file by the noun it defines; these names say nothing.", &words::empty_names(&repository));
}

#[test]
fn every_public_type_has_an_example() {
    let repository = Repository::read();
    none(
        "Show in its documentation how one comes by it and what one does with it.",
        &examples::types_without_one(&repository),
    );
}

#[test]
fn every_code_of_an_error_is_in_the_book_and_stands_for_one_thing() {
    let (repository, pages) = (Repository::read(), codes::pages(&source::root()));
    none(
        "A code is a line in docs/src/errors.md, or in the page that it names for that range; a number is never used twice.",
        &codes::unnamed_or_shared(&repository, &pages, codes::SHARED),
    );
    none(
        "The table at the error and the one in the book say the same class.",
        &codes::of_two_classes(&repository, &pages),
    );
}

#[test]
fn the_guide_shows_the_program_that_is_run() {
    let read = |path| std::fs::read_to_string(source::root().join(path)).unwrap();
    let (guide, example) = (read("docs/src/embedding.md"), read("engine/examples/shop.rs"));
    let program = example.lines().skip_while(|line| !line.starts_with("use "));
    let program: Vec<_> = program.collect();
    assert!(
        guide.contains(&format!("```rust,no_run\n{}\n```", program.join("\n"))),
        "docs/src/embedding.md shows another"
    );
}

#[test]
fn nothing_unfinished_is_merged() {
    let repository = Repository::read();
    none("Finish it, or open an issue and write its number: `TODO(#12)`.", &words::unfinished(&repository));
}

#[test]
fn no_file_holds_a_path_of_one_machine() {
    let repository = Repository::read();
    none("Paths of the machine it was written on mean nothing elsewhere.", &words::machine_paths(&repository));
}

#[test]
fn each_durability_point_names_the_fault_test_that_attacks_it() {
    let repository = Repository::read();
    none(
        "After `DURABLE:` and its argument, name the test that fails when the sync is taken away.",
        &invariants::unattacked_durability_points(&repository),
    );
}

#[test]
fn every_invariant_has_code_a_test_and_a_planted_bug_or_waits_by_name() {
    let repository = Repository::read();
    none(
        "I1 to I12: code names the invariant it upholds, a test the one it attacks, engine/src/model/mutant.rs the \
         one its bug breaks; else engine/tests/tidy/pending_invariants.txt names the capability that will.",
        &invariants::unproved(&repository, &source::list("pending_invariants.txt")),
    );
}

#[test]
fn golden_files_are_those_of_the_list() {
    none(
        "engine/tests/tidy/golden.txt: `sha256 bytes format version path`. A new file is a new line. A changed file \
         needs a new format version (`make golden` compares with the history).",
        &golden::differences(&source::root(), &source::list("golden.txt")),
    );
}

#[test]
fn the_top_level_holds_what_the_readme_says_and_no_more() {
    none("Everything has a place below these.", &layout::top_level(&source::root()));
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    none("A link to a file that is not there.", &layout::dead_links(&source::root()));
}
