//! Who ends when all of them hold too much.

use super::*;
use proptest::prelude::*;

const BYTES_MAX: u64 = 1000;

fn books(owners: &[&str]) -> Books {
    let books = Books { bytes_max: BYTES_MAX, ledger: Mutex::default() };
    let entries = owners.iter().map(|&owner| Entry {
        owner: owner.into(),
        connection: Weak::new(),
        inside: 0,
        outside: 0,
        is_ending: false,
    });
    books.ledger.lock().accounts = (0..).zip(entries).collect();
    books
}

fn ending(books: &Books) -> Vec<u64> {
    let ledger = books.ledger.lock();
    ledger.accounts.iter().filter(|(_, entry)| entry.is_ending).map(|(number, _)| *number).collect()
}

#[test]
fn the_owner_of_most_loses_the_largest_connection_and_no_more_than_it_takes() {
    let books = books(&["many", "one", "many", "many"]);
    for (number, inside) in [(0, 200), (1, 390), (2, 210), (3, 200)] {
        books.change(number, |entry| entry.inside = inside);
    }
    assert_eq!(ending(&books), [] as [u64; 0], "1,000 are allowed");
    // "one" has the largest connection, and "many" has more than it.
    books.change(1, |entry| entry.inside += 1);
    assert_eq!((ending(&books), books.ledger.lock().ended), (vec![2], 1));
    // What is about to be free makes nobody else end.
    books.change(1, |entry| entry.outside = 150);
    assert_eq!(ending(&books), [2]);
    assert_eq!(books.ledger.lock().held, 1151, "it is held until it is free");
    books.forget(2);
    assert_eq!(books.ledger.lock().held, 941);
}

#[test]
fn what_an_account_that_is_gone_held_is_not_given_back_twice() {
    let books = Arc::new(books(&["a", "b"]));
    books.change(1, |entry| entry.inside = 500);
    books.change(0, |entry| entry.outside = 300);
    let held = Held(Some((Arc::clone(&books), 0, 300)));
    books.forget(0);
    drop(held);
    books.forget(0);
    assert_eq!(books.ledger.lock().held, 500);
}

proptest! {
    #[test]
    fn the_books_add_up_and_a_share_is_safe(
        owners in proptest::collection::vec(0u8..4, 1..10),
        steps in proptest::collection::vec((0usize..10, any::<bool>(), 0u64..600, any::<bool>()), 0..120),
    ) {
        let names: Vec<String> = owners.iter().map(|owner| format!("owner-{owner}")).collect();
        let books = books(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let mut distinct = names;
        distinct.sort();
        distinct.dedup();
        let share = BYTES_MAX / distinct.len() as u64;
        for (place, is_inside, bytes, does_end) in steps {
            let number = (place % owners.len()) as u64;
            let before = ending(&books);
            if does_end && before.contains(&number) {
                books.forget(number);
            } else {
                books.change(number, |entry| if is_inside { entry.inside = bytes } else { entry.outside = bytes });
            }
            let ledger = books.ledger.lock();
            let held = |entries: Vec<&Entry>| entries.into_iter().map(Entry::held).sum::<u64>();
            prop_assert_eq!(ledger.held, held(ledger.accounts.values().collect()));
            let staying = held(ledger.accounts.values().filter(|entry| !entry.is_ending).collect());
            prop_assert!(staying <= BYTES_MAX, "{} stay", staying);
            let stayed_before: Vec<_> =
                ledger.accounts.iter().filter(|(number, _)| !before.contains(number)).map(|(_, entry)| entry).collect();
            for ended in stayed_before.iter().filter(|entry| entry.is_ending) {
                let of_owner = stayed_before.iter().copied().filter(|entry| entry.owner == ended.owner);
                prop_assert!(held(of_owner.collect()) > share, "an owner who held his share lost a connection");
            }
        }
    }
}
