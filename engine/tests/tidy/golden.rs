//! Golden files: examples of every format, of every version ever released, that must open for ever.
//!
//! They lie in folders named `golden`. The list binds each to its bytes, so that a test which rewrote one does
//! not pass unseen; `make golden` compares the list with the history.

use crate::source::{files_below, relative};
use std::fs;
use std::path::Path;

/// Files that the list does not describe, and entries without a file.
pub(crate) fn differences(root: &Path, list: &[String]) -> Vec<String> {
    let files: Vec<_> = ["wal", "net", "engine"]
        .iter()
        .flat_map(|folder| files_below(&root.join(folder)))
        .map(|path| (relative(root, &path), path))
        .filter(|(name, _)| is_golden(name))
        .map(|(name, path)| (name, fs::read(path).unwrap_or_default()))
        .collect();
    compare(&files, list)
}

fn is_golden(name: &str) -> bool {
    name.split('/').any(|part| part == "golden") && !name.ends_with(".md") && !name.ends_with(".rs")
}

fn compare(files: &[(String, Vec<u8>)], list: &[String]) -> Vec<String> {
    let mut offences = Vec::new();
    let mut listed = Vec::new();
    for entry in list {
        let fields: Vec<_> = entry.split_whitespace().collect();
        let [print, bytes, _format, version, path] = fields.as_slice() else {
            offences.push(format!("'{entry}': wants `sha256 bytes format version path`"));
            continue;
        };
        if version.parse::<u32>().is_err() {
            offences.push(format!("'{entry}': the version is a number"));
        }
        listed.push(*path);
        match files.iter().find(|(name, _)| name == path) {
            None => offences.push(format!("{path} is listed and not there")),
            Some((_, content)) if (*print, *bytes) != (&*fingerprint(content), &*content.len().to_string()) => {
                offences.push(format!("{path} is not what it was; as it is now: {}", line(path, content)));
            }
            Some(_) => {}
        }
    }
    for (name, content) in files {
        if !listed.contains(&name.as_str()) {
            offences.push(format!("{name} is not listed: {}", line(name, content)));
        }
    }
    offences
}

/// The line that the list would have, its format and version left open.
fn line(path: &str, content: &[u8]) -> String {
    format!("{} {} FORMAT VERSION {path}", fingerprint(content), content.len())
}

/// The first 32 hexadecimal digits of the content's SHA-256.
///
/// Not a CRC-32: a format that ends with its own has the same CRC-32 whatever is in it.
fn fingerprint(content: &[u8]) -> String {
    sha256(content).iter().take(4).map(|word| format!("{word:08x}")).collect()
}

/// SHA-256 (FIPS 180-4, section 6.2). Here because the rules need nothing but the standard library.
fn sha256(content: &[u8]) -> [u32; 8] {
    // Section 5.1.1: one bit, zeroes, the length in bits.
    let mut message = content.to_vec();
    message.push(0x80);
    message.resize((message.len() + 8).next_multiple_of(64) - 8, 0);
    let bits = content.len() as u128 * 8;
    message.extend((0..8).map(|byte| u8::try_from(bits >> (56 - 8 * byte) & 0xff).unwrap_or(0)));

    // Sections 4.2.2 and 5.3.3: fractional parts of the roots of the first primes.
    let primes: Vec<u32> = (2_u32..).filter(|n| (2..*n).all(|divisor| n % divisor != 0)).take(64).collect();
    let rounds: Vec<u32> = primes.iter().map(|prime| fraction(*prime, 3)).collect();
    let mut state = [0; 8];
    for (word, prime) in state.iter_mut().zip(&primes) {
        *word = fraction(*prime, 2);
    }
    for block in message.chunks(64) {
        let mut schedule: Vec<u32> =
            block.chunks(4).map(|word| word.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte))).collect();
        for t in 16..64 {
            let (x, y) = (schedule[t - 15], schedule[t - 2]);
            let small = x.rotate_right(7) ^ x.rotate_right(18) ^ (x >> 3);
            let large = y.rotate_right(17) ^ y.rotate_right(19) ^ (y >> 10);
            schedule.push(schedule[t - 16].wrapping_add(small).wrapping_add(schedule[t - 7]).wrapping_add(large));
        }
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = state;
        for (round, word) in rounds.iter().zip(&schedule) {
            let mix = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
            let chosen = (e & f) ^ (!e & g);
            let first = [mix, chosen, *round, *word].iter().fold(h, |sum, term| sum.wrapping_add(*term));
            let mix = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
            let majority = (a & b) ^ (a & c) ^ (b & c);
            (h, g, f, e, d, c, b) = (g, f, e, d.wrapping_add(first), c, b, a);
            a = first.wrapping_add(mix).wrapping_add(majority);
        }
        for (word, add) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
            *word = word.wrapping_add(add);
        }
    }
    state
}

/// The first 32 bits of the fraction of a number's square or cube root, by bisection.
fn fraction(number: u32, root: u32) -> u32 {
    // root(n) * 2^32 = root(n * 2^(32 * root)); 128 bits hold the cube of a 35-bit number.
    let target = u128::from(number) << (32 * root);
    let (mut low, mut high) = (0_u128, 1_u128 << 37);
    while high - low > 1 {
        let middle = u128::midpoint(low, high);
        if middle.pow(root) <= target { low = middle } else { high = middle }
    }
    u32::try_from(low & u128::from(u32::MAX)).unwrap_or(0)
}

#[test]
fn the_fingerprint_is_that_of_sha_256() {
    assert_eq!(fingerprint(b""), "e3b0c44298fc1c149afbf4c8996fb924");
    assert_eq!(fingerprint(b"abc"), "ba7816bf8f01cfea414140de5dae2223");
    assert_eq!(fingerprint(&[b'a'; 1000]), "41edece42d63e8d9bf515a9ba6932e1c");
}

#[test]
fn a_changed_a_new_and_a_missing_file_are_found() {
    let files = [("wal/tests/golden/a.bin".to_owned(), b"abc".to_vec())];
    let entry = |text: &str| vec![text.to_owned()];
    assert!(compare(&files, &entry("ba7816bf8f01cfea414140de5dae2223 3 batch 1 wal/tests/golden/a.bin")).is_empty());
    assert_eq!(compare(&files, &entry("ba7816bf8f01cfea414140de5dae2224 3 batch 1 wal/tests/golden/a.bin")).len(), 1);
    assert_eq!(compare(&files, &entry("ba7816bf8f01cfea414140de5dae2223 3 batch one wal/tests/golden/a.bin")).len(), 1);
    assert_eq!(
        compare(&files, &[]),
        [
            "wal/tests/golden/a.bin is not listed: ba7816bf8f01cfea414140de5dae2223 3 FORMAT VERSION wal/tests/golden/a.bin"
        ]
    );
    assert_eq!(compare(&[], &entry("ba7816bf8f01cfea414140de5dae2223 3 batch 1 wal/tests/golden/a.bin")).len(), 1);
    assert_eq!(compare(&[], &entry("ba7816bf8f01cfea414140de5dae2223 3 batch")).len(), 1);
    assert!(is_golden("wal/tests/golden/v1/a.bin") && !is_golden("wal/tests/golden/README.md"));
}
