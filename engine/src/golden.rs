//! Golden vectors: the bytes of every format, committed, compared both ways (tests only).
//!
//! `TOWLINE_BLESS=1 cargo test` writes what is missing or changed; continuous integration never does, and the tidy
//! test wants a risen format version beside every changed file.

use std::path::PathBuf;

fn path(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("tests/golden").join(name)
}

/// Compares `encoded` with the committed file, byte for byte, and returns the file's bytes for decoding.
pub(crate) fn check(name: &str, encoded: &[u8]) -> Vec<u8> {
    let path = path(name);
    let bless = std::env::var_os("TOWLINE_BLESS").is_some();
    assert!(!(bless && std::env::var_os("CI").is_some()), "golden files are not written by CI");
    if bless {
        std::fs::write(&path, encoded).unwrap();
    }
    let committed = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(committed, encoded, "{name} is encoded otherwise than the committed file");
    committed
}
