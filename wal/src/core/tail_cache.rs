//! The newest batches in memory: who follows a log's end reads them without the disk.

use std::collections::VecDeque;

use crate::format::batch::Batch;

/// Batches of the last groups, by where they lie.
#[derive(Debug)]
pub(crate) struct TailCache {
    groups: VecDeque<CachedGroup>,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct CachedGroup {
    segment: u64,
    /// Each batch with its offset in the segment; they rise.
    batches: Vec<(u32, Batch)>,
    bytes: usize,
}

impl CachedGroup {
    fn start(&self) -> (u64, u32) {
        (self.segment, self.batches.first().map_or(0, |(offset, _)| *offset))
    }
}

impl TailCache {
    pub(crate) const fn new(bytes_max: usize) -> Self {
        Self { groups: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Takes a group's batches, and gives up the oldest groups beyond the bound.
    pub(crate) fn push(&mut self, segment: u64, batches: Vec<(u32, Batch)>) {
        if self.bytes_max == 0 || batches.is_empty() {
            return;
        }
        let bytes = batches.iter().map(|(_, batch)| batch.bytes().len() + size_of::<(u32, Batch)>()).sum();
        self.bytes += bytes;
        self.groups.push_back(CachedGroup { segment, batches, bytes });
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.groups.pop_front()
        {
            self.bytes -= oldest.bytes;
        }
    }

    /// The batch at a place.
    pub(crate) fn get(&self, segment: u64, offset: u64) -> Option<&Batch> {
        let offset = u32::try_from(offset).ok()?;
        let behind = self.groups.partition_point(|group| group.start() <= (segment, offset));
        let group = self.groups.get(behind.checked_sub(1)?).filter(|group| group.segment == segment)?;
        let i = group.batches.binary_search_by_key(&offset, |(at, _)| *at).ok()?;
        group.batches.get(i).map(|(_, batch)| batch)
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::format::batch::{BatchBuilder, BatchKind};
    use crate::format::block::{Block, Compression};
    use crate::format::ids::{Epoch, LogId, LogPosition};

    fn batch(bytes: usize) -> Batch {
        let block = Block::encode(Bytes::from(vec![7; bytes]), 1, Compression::Never);
        let start = LogPosition::origin(LogId::new(1));
        BatchBuilder::new(LogId::new(1), BatchKind::Data, Epoch::new(1, 1), start, 0).block(block).seal().unwrap()
    }

    #[test]
    fn batches_are_found_by_their_places_until_newer_ones_need_the_room() {
        let mut cache = TailCache::new(10_000);
        for segment in 1..=3 {
            for start in [4096, 8192] {
                cache.push(segment, vec![(start + 200, batch(500)), (start + 900, batch(500))]);
            }
        }
        assert!(cache.get(3, 8192 + 900).is_some() && cache.get(1, 4096 + 200).is_some());
        for (segment, offset) in [(3, 8193), (3, 4096), (4, 4296), (0, 4296), (3, 1 << 40)] {
            assert!(cache.get(segment, offset).is_none());
        }
        cache.push(4, vec![(4296, batch(6000))]);
        assert!(
            cache.get(1, 4096 + 200).is_none() && cache.get(3, 8192 + 900).is_some() && cache.get(4, 4296).is_some()
        );
        assert!(cache.bytes() <= 10_000);
        cache.push(5, vec![(4296, batch(20_000))]);
        assert_eq!(cache.bytes(), 0, "what is larger than the cache is not kept");
    }
}
