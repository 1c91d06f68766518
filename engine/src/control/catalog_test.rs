//! The catalog: what is asked and what is made true follow the same rules, and a snapshot says all of it.

use super::*;
use crate::model::Retention;
use crate::model::catalog_record::CatalogRecord;
use proptest::prelude::*;

fn changed(catalog: &mut Catalog, change: Result<CatalogChange, CatalogError>) -> Result<(), CatalogError> {
    // As it is read back.
    let bytes = CatalogRecord::Change(change?).encode().unwrap();
    let CatalogRecord::Change(change) = CatalogRecord::decode(&bytes).unwrap() else { panic!("a change") };
    catalog.apply(change)
}

fn create(catalog: &mut Catalog, name: &str, points: &[&str]) -> Result<(), CatalogError> {
    let points: Vec<_> = points.iter().map(|point| point.as_bytes().to_vec()).collect();
    let change = catalog.create(name, Policy::default(), &points);
    changed(catalog, change)
}

#[test]
fn ids_are_never_given_again_and_names_are_free_when_they_are_given_up() {
    let mut catalog = Catalog::initial();
    create(&mut catalog, "a", &["m"]).unwrap();
    let first = catalog.named("a").unwrap().clone();
    assert_eq!(create(&mut catalog, "a", &[]), Err(CatalogError::Exists("a".into())));
    let renamed = catalog.rename("a", "b");
    changed(&mut catalog, renamed).unwrap();
    create(&mut catalog, "a", &[]).unwrap();
    let second = catalog.named("a").unwrap().clone();
    assert!(second.id > first.id && second.shards[0].shard > first.shards[1].shard);
    let dropped = catalog.drop_namespace("b");
    changed(&mut catalog, dropped).unwrap();
    assert_eq!(catalog.named("b"), None);
    assert_eq!(catalog.dropped().map(|namespace| namespace.id).collect::<Vec<_>>(), [first.id]);
    let forgotten = catalog.forget(first.id);
    changed(&mut catalog, forgotten).unwrap();
    create(&mut catalog, "b", &[]).unwrap();
    assert!(catalog.named("b").unwrap().id > second.id);
    assert_eq!(catalog.dropped().count(), 0);
}

#[test]
fn what_can_not_be_is_refused_with_its_reason_and_changes_nothing() {
    let mut catalog = Catalog::initial();
    create(&mut catalog, "a", &[]).unwrap();
    let before = catalog.clone();
    assert!(matches!(create(&mut catalog, "", &[]), Err(CatalogError::Name(_))));
    assert!(matches!(create(&mut catalog, "b", &["z", "a"]), Err(CatalogError::Map(MapError::Order { index: 1 }))));
    assert_eq!(catalog.rename("none", "x").unwrap_err(), CatalogError::Unknown("none".into()));
    assert_eq!(catalog.rename("a", "default").unwrap_err(), CatalogError::Exists("default".into()));
    assert!(catalog.rename("a", "a").is_ok(), "as it is");
    assert_eq!(catalog.rename("default", "x").unwrap_err(), CatalogError::Default);
    assert_eq!(catalog.drop_namespace("default").unwrap_err(), CatalogError::Default);
    assert!(catalog.set_policy("default", Policy { retention: Retention::Forever, ..Policy::default() }).is_ok());
    // What a log can't hold.
    let twice = catalog.create("b", Policy::default(), &[]).unwrap();
    catalog.apply(twice.clone()).unwrap();
    assert!(catalog.apply(twice).is_err());
    let gone = CatalogChange::Forget { id: NamespaceId::new(2) };
    assert!(matches!(catalog.apply(gone), Err(CatalogError::Contradiction(_))));
    let nobody = CatalogChange::SetPolicy { id: NamespaceId::new(99), policy: Policy::default() };
    assert!(matches!(catalog.apply(nobody), Err(CatalogError::Contradiction(_))));
    assert_eq!(catalog.namespaces().count(), before.namespaces().count() + 1);
}

#[test]
fn there_is_an_end_to_shards_and_to_the_bytes_of_split_points() {
    let mut catalog = Catalog::initial();
    let points: Vec<_> = (0..SHARDS_OF_NAMESPACE_MAX - 1).map(|n| format!("{n:06}").into_bytes()).collect();
    let namespaces = SHARDS_MAX / SHARDS_OF_NAMESPACE_MAX;
    for number in 1..=namespaces {
        // Beside the one of the default namespace the last has one less.
        let points = if number == namespaces { &points[1..] } else { &points };
        let change = catalog.create(&format!("most-{number}"), Policy::default(), points).unwrap();
        catalog.apply(change).unwrap();
    }
    assert!(matches!(create(&mut catalog, "one more", &[]), Err(CatalogError::Name(_))));
    let full = Err(CatalogError::Full { what: "shards", limit: SHARDS_MAX, wanted: SHARDS_MAX + 1 });
    assert_eq!(create(&mut catalog, "one-more", &[]), full);
}

#[test]
fn a_snapshot_that_contradicts_itself_is_refused() {
    let mut catalog = Catalog::initial();
    create(&mut catalog, "a", &["m"]).unwrap();
    let good = catalog.snapshot();
    assert_eq!(Catalog::from_snapshot(good.clone()).unwrap(), catalog);
    let wrong = |change: fn(&mut CatalogSnapshot)| {
        let mut snapshot = good.clone();
        change(&mut snapshot);
        Catalog::from_snapshot(snapshot)
    };
    assert!(wrong(|s| s.next_namespace = 2).is_err(), "a number that was not given yet");
    assert!(wrong(|s| s.next_shard = 3).is_err());
    assert!(wrong(|s| s.dropped = s.namespaces.clone()).is_err(), "live and dropped");
    assert!(wrong(|s| s.namespaces[1].name = "default".into()).is_err(), "a name twice");
    assert!(wrong(|s| s.namespaces[1].shards[1].start = b"n".to_vec()).is_err(), "a gap");
    assert!(wrong(|s| s.namespaces[1].shards[1].namespace = NamespaceId::new(1)).is_err());
    assert!(wrong(|s| drop(s.namespaces.remove(0))).is_err(), "no default");
}

proptest! {
    #[test]
    fn after_any_changes_the_snapshot_makes_the_same_catalog(
        steps in prop::collection::vec((0_u8..5, 0_u8..4, 0_u8..4), 0..40),
    ) {
        let mut catalog = Catalog::initial();
        let names = ["a", "b", "c", "default"];
        for (kind, one, other) in steps {
            let (one, other) = (names[usize::from(one)], names[usize::from(other)]);
            let change = match kind {
                0 => catalog.create(one, Policy::default(), &[other.as_bytes().to_vec()]),
                1 => catalog.rename(one, other),
                2 => catalog.set_policy(one, Policy { retention: Retention::Forever, ..Policy::default() }),
                3 => catalog.drop_namespace(one),
                _ => match catalog.dropped().next().map(|namespace| namespace.id) {
                    Some(id) => catalog.forget(id),
                    None => continue,
                },
            };
            if let Ok(change) = change {
                catalog.apply(change).unwrap();
            }
            let bytes = CatalogRecord::Snapshot(catalog.snapshot()).encode().unwrap();
            let CatalogRecord::Snapshot(read) = CatalogRecord::decode(&bytes).unwrap() else { panic!("a snapshot") };
            prop_assert_eq!(&Catalog::from_snapshot(read).unwrap(), &catalog);
        }
    }
}
