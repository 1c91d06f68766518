//! The argument from rule to code to test: invariants I1 to I12, and the points of durability.

use crate::source::{Repository, Source};

/// How many invariants there are.
const INVARIANTS: usize = 12;
/// How many may still wait for the capability that attacks them: this number only goes down.
const PENDING_MAX: usize = 4;
/// The planted bugs, each with the invariant it breaks: those that the simulator notices, and those of the transport.
const MUTANTS: [&str; 2] = ["engine/src/model/mutant.rs", "net/src/mutant.rs"];

/// Where an invariant is named.
#[derive(Default, Clone, Copy)]
struct Named {
    code: bool,
    test: bool,
    mutant: bool,
}

/// Invariants that neither are proved nor wait by name, and entries of the list that could go.
pub(crate) fn unproved(repository: &Repository, pending: &[String]) -> Vec<String> {
    let named = named(repository);
    let has_mutants = repository.sources.iter().any(|source| MUTANTS.contains(&source.path.as_str()));
    let mut offences = Vec::new();
    for (index, named) in named.iter().enumerate() {
        let name = format!("I{}", index + 1);
        let mut missing = Vec::new();
        if !named.code {
            missing.push("code");
        }
        if !named.test {
            missing.push("a test or the simulator");
        }
        if has_mutants && !named.mutant {
            missing.push("the planted bugs");
        }
        let waits = pending.iter().any(|entry| entry.split(':').next() == Some(&name));
        if !waits && !missing.is_empty() {
            offences.push(format!("{name} is not named in {}", missing.join(", nor in ")));
        }
        if waits && missing.is_empty() {
            offences.push(format!("{name} is proved now: strike it out of pending_invariants.txt"));
        }
    }
    for entry in pending {
        let (name, capability) = entry.split_once(':').unwrap_or((entry, ""));
        let number = name.strip_prefix('I').and_then(|digits| digits.parse().ok());
        if !number.is_some_and(|number| (1..=INVARIANTS).contains(&number)) || capability.trim().len() < 10 {
            offences.push(format!("pending_invariants.txt: '{entry}': wants `I7: the capability that will attack it`"));
        }
    }
    if pending.len() > PENDING_MAX {
        offences.push(format!("pending_invariants.txt: {} entries, {PENDING_MAX} are allowed", pending.len()));
    }
    offences
}

fn named(repository: &Repository) -> [Named; INVARIANTS] {
    let mut named = [Named::default(); INVARIANTS];
    for source in &repository.sources {
        // The tidy rules talk about all of them, and prove none.
        if source.path.starts_with("engine/tests/tidy") {
            continue;
        }
        for (index, line) in source.text.lines().enumerate() {
            for number in invariants_in(line) {
                let entry = &mut named[number - 1];
                let proves = source.is_test_line(index + 1) || source.path.starts_with("engine/src/sim/");
                if MUTANTS.contains(&source.path.as_str()) {
                    entry.mutant = true;
                } else if proves {
                    entry.test = true;
                } else {
                    entry.code = true;
                }
            }
        }
    }
    named
}

/// The invariants that a line names: `I3`, not `I30`, `AI3` or `I3a`.
fn invariants_in(line: &str) -> Vec<usize> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter_map(|word| word.strip_prefix('I'))
        .filter(|digits| !digits.starts_with('0') && digits.chars().all(|c| c.is_ascii_digit()))
        .filter_map(|digits| digits.parse().ok())
        .filter(|number| (1..=INVARIANTS).contains(number))
        .collect()
}

/// Comments with `DURABLE:` that name no test which exists.
pub(crate) fn unattacked_durability_points(repository: &Repository) -> Vec<String> {
    let tests: Vec<_> = repository.sources.iter().flat_map(test_functions).collect();
    let mut offences = Vec::new();
    for source in &repository.sources {
        // The rule's own words and examples.
        if source.path.starts_with("engine/tests/tidy") {
            continue;
        }
        let lines: Vec<_> = source.comments.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let Some((_, argument)) = line.split_once("DURABLE:") else {
                continue;
            };
            // The name stands on the comment's line or on one that follows without a break.
            let rest = lines[index + 1..].iter().take_while(|line| line.trim_start().starts_with("//"));
            let named = std::iter::once(argument)
                .chain(rest.copied())
                .flat_map(|text| text.split(|c: char| !c.is_alphanumeric() && c != '_'))
                .any(|word| tests.iter().any(|test| test == word));
            if !named {
                offences.push(format!("{}:{}: {}", source.path, index + 1, argument.trim()));
            }
        }
    }
    offences
}

/// The names of the functions in a file's tests; short ones name no fault.
fn test_functions(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for (index, line) in source.code.lines().enumerate() {
        if !source.is_test_line(index + 1) {
            continue;
        }
        if let Some((_, after)) = line.split_once("fn ") {
            let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if name.matches('_').count() >= 2 {
                found.push(name);
            }
        }
    }
    found
}

#[cfg(test)]
const PROVED: &[(&str, &str)] = &[
    ("engine/src/replica/commit.rs", "// I1, I2 and I3 need a majority, I5 and I6 a session, I7 a leader, I8 a copy."),
    ("engine/src/replica/commit_test.rs", "// I1: I2, I3, I5, I6, I7, I8"),
    (MUTANTS[0], "/// I1, I2 and I3."),
    (MUTANTS[1], "/// I5, I6, I7 and I8."),
];

#[cfg(test)]
fn pending(from: usize) -> Vec<String> {
    (from..=INVARIANTS).map(|number| format!("I{number}: a capability to come")).collect()
}

#[test]
fn an_invariant_nobody_names_is_found() {
    let repository = Repository::of(PROVED);
    assert_eq!(
        unproved(&repository, &pending(9)),
        ["I4 is not named in code, nor in a test or the simulator, nor in the planted bugs"]
    );
    let without_test = Repository::of(&[PROVED[0], PROVED[2], PROVED[3]]);
    let offences = unproved(&without_test, &pending(9));
    assert!(offences.contains(&"I1 is not named in a test or the simulator".to_owned()), "{offences:?}");
    let in_the_sim =
        Repository::of(&[PROVED[0], PROVED[2], PROVED[3], ("engine/src/sim/check.rs", "// I1 I2 I3 I4 I5 I6 I7 I8")]);
    assert_eq!(unproved(&in_the_sim, &pending(9)), ["I4 is not named in code, nor in the planted bugs"]);
}

#[test]
fn the_list_of_pending_invariants_only_shrinks() {
    let repository = Repository::of(PROVED);
    let found = |entries: &[String]| unproved(&repository, entries).join("\n");
    assert!(found(&pending(3)).contains("I3 is proved now"));
    assert!(found(&pending(1)).contains("are allowed"));
    assert!(found(&["I5".to_owned()]).contains("wants"));
    assert!(found(&["I13: a capability to come".to_owned()]).contains("wants"));
}

#[test]
fn invariants_are_told_from_other_words() {
    assert_eq!(invariants_in("I1, (I12); AI3 I3a I13 I03 I I_2"), [1, 12]);
}

#[test]
fn a_durability_point_without_a_test_is_found() {
    let test = ("wal/src/a_test.rs", "#[test]\nfn a_lost_sync_is_found() {}");
    let found = |comment: &str| unattacked_durability_points(&Repository::of(&[("wal/src/a.rs", comment), test])).len();
    assert_eq!(found("// DURABLE: the group is synced first.\nfn a() {}"), 1);
    assert_eq!(found("// DURABLE: synced first (`a_lost_sync_is_found`)."), 0);
    assert_eq!(
        found("// DURABLE: synced first, otherwise an\n// acknowledged write is lost: a_lost_sync_is_found.\n"),
        0
    );
    assert_eq!(found("// DURABLE: synced first (`a_test_that_is_not_there`)."), 1);
    assert_eq!(found("// DURABLE: synced first.\nfn a() {}\n// a_lost_sync_is_found"), 1);
}
