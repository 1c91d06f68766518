//! [`Origin`]: where an event came from, as its metadata: 32 bytes SHA-256 of the file as it lies on the disk
//! (packed and unpacked are two files), then the row's number as u64, little-endian, the first data row being 1;
//! then, if the load left out the file's first rows, how many, as u64.

use bytes::Bytes;

/// Bytes of the metadata, of a load that left out nothing.
const BYTES: usize = 40;

/// A row of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The file's SHA-256.
    pub(crate) file: [u8; 32],
    /// The row's number, from 1.
    pub(crate) row: u64,
    /// Rows at the beginning of the file that the load left out.
    pub(crate) skipped: u64,
}

impl Origin {
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(&self.file);
        bytes.extend_from_slice(&self.row.to_le_bytes());
        if self.skipped > 0 {
            bytes.extend_from_slice(&self.skipped.to_le_bytes());
        }
        bytes.into()
    }

    /// None: the event came from elsewhere.
    pub(crate) fn decode(metadata: &[u8]) -> Option<Self> {
        let (file, rest) = metadata.split_first_chunk::<32>()?;
        let (row, rest) = rest.split_first_chunk::<8>()?;
        let skipped = if rest.is_empty() { 0 } else { u64::from_le_bytes(rest.try_into().ok()?) };
        Some(Self { file: *file, row: u64::from_le_bytes(*row), skipped })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_forty_bytes_and_reads_back() {
        let origin = Origin { file: [7; 32], row: 0x0102, skipped: 0 };
        let bytes = origin.encode();
        assert_eq!(bytes.len(), BYTES);
        assert_eq!(bytes[32..], [2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Origin::decode(&bytes), Some(origin));
        assert_eq!(Origin::decode(&bytes[1..]), None);
        assert_eq!(Origin::decode(b""), None);
        let rest = Origin { skipped: 3, ..origin };
        assert_eq!(Origin::decode(&rest.encode()), Some(rest));
    }
}
