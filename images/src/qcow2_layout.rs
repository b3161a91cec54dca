//! Where the bytes of a disk stand in a qcow2 that is written in one go (QEMU,
//! `docs/interop/qcow2`, version 3; big endian).
//!
//! All of it is known before the first byte is written, because the manifest says which clusters
//! of the disk have data: header, refcount table and blocks, L1 table, L2 tables, then the data in
//! the order of the disk, each in whole clusters. Nothing is compressed.

use crate::{Extent, Manifest};

/// Bytes of a cluster, as `qemu-img create` chooses.
pub(crate) const CLUSTER: u64 = 1 << BITS;
const BITS: u32 = 16;
/// Entries of 8 bytes in a cluster: of an L1 or L2 table, or the refcount table.
const ENTRIES: u64 = CLUSTER / 8;
/// Refcounts of 16 bits in a cluster.
const REFCOUNTS: u64 = CLUSTER / 2;
/// The cluster is used once, and may be written in place.
const COPIED: u64 = 1 << 63;
/// Length of the header.
const HEADER: u32 = 104;

/// The places of a disk's clusters in its file.
#[derive(Debug)]
pub(crate) struct Layout {
    size: u64,
    /// Clusters of the disk that have data, in order.
    used: Vec<u64>,
    /// Clusters of the file before the data, by what they are for.
    refcount_table: u64,
    refcount_blocks: u64,
    l1: u64,
    /// L2 tables that are needed, by their number.
    l2: Vec<u64>,
}

impl Layout {
    pub(crate) fn new(manifest: &Manifest) -> Self {
        let mut used: Vec<u64> = Vec::new();
        for (offset, extent) in manifest.placed() {
            if let Extent::Chunk { size, .. } = extent {
                let clusters = offset / CLUSTER..(offset + u64::from(size)).div_ceil(CLUSTER);
                let next = used.last().map_or(0, |last| last + 1);
                used.extend(clusters.skip_while(|cluster| *cluster < next));
            }
        }
        let mut l2: Vec<u64> = used.iter().map(|cluster| cluster / ENTRIES).collect();
        l2.dedup();
        let size = manifest.header.disk_size;
        let l1 = size.div_ceil(CLUSTER * ENTRIES).div_ceil(ENTRIES);
        let mut layout = Layout { size, used, refcount_table: 1, refcount_blocks: 1, l1, l2 };
        // What counts clusters takes clusters itself.
        loop {
            let blocks = layout.clusters().div_ceil(REFCOUNTS);
            let table = blocks.div_ceil(ENTRIES);
            if (blocks, table) == (layout.refcount_blocks, layout.refcount_table) {
                return layout;
            }
            (layout.refcount_blocks, layout.refcount_table) = (blocks, table);
        }
    }

    fn l1_start(&self) -> u64 {
        1 + self.refcount_table + self.refcount_blocks
    }

    fn l2_start(&self) -> u64 {
        self.l1_start() + self.l1
    }

    fn data_start(&self) -> u64 {
        self.l2_start() + self.l2.len() as u64
    }

    fn clusters(&self) -> u64 {
        self.data_start() + self.used.len() as u64
    }

    /// Length of the file in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.clusters() * CLUSTER
    }

    /// Where in the file a byte of the disk is, which must be in a chunk. What follows it up to the
    /// end of its extent stands behind it.
    pub(crate) fn place(&self, offset: u64) -> u64 {
        let rank = self.used.partition_point(|cluster| *cluster < offset / CLUSTER);
        (self.data_start() + rank as u64) * CLUSTER + offset % CLUSTER
    }

    /// All clusters before the data, one after the other.
    pub(crate) fn render_head(&self) -> Vec<u8> {
        let mut head = self.header();
        head.resize(CLUSTER as usize, 0);
        let blocks = 1 + self.refcount_table;
        push_table(
            &mut head,
            self.refcount_table,
            (0..self.refcount_blocks).map(|n| blocks + n),
            0,
        );
        let refcounts = head.len();
        (0..self.clusters()).for_each(|_| head.extend(1_u16.to_be_bytes()));
        head.resize(refcounts + (self.refcount_blocks * CLUSTER) as usize, 0);

        let mut l1 = vec![0; (self.l1 * ENTRIES) as usize];
        for (n, number) in self.l2.iter().enumerate() {
            l1[*number as usize] = self.l2_start() + n as u64;
        }
        push_table(&mut head, self.l1, l1.into_iter(), COPIED);
        let mut used = (self.data_start()..).zip(&self.used).peekable();
        for number in &self.l2 {
            let mut table = vec![0; ENTRIES as usize];
            while let Some((place, cluster)) =
                used.next_if(|(_, cluster)| **cluster / ENTRIES == *number)
            {
                table[(cluster % ENTRIES) as usize] = place;
            }
            push_table(&mut head, 1, table.into_iter(), COPIED);
        }
        head
    }

    fn header(&self) -> Vec<u8> {
        let l1_entries = self.size.div_ceil(CLUSTER * ENTRIES) as u32;
        let mut header = Vec::new();
        header.extend(b"QFI\xfb");
        header.extend(3_u32.to_be_bytes());
        header.extend([0; 12]); // no backing file
        header.extend(BITS.to_be_bytes());
        header.extend(self.size.to_be_bytes());
        header.extend(0_u32.to_be_bytes()); // not encrypted
        header.extend(l1_entries.to_be_bytes());
        header.extend((self.l1_start() * CLUSTER).to_be_bytes());
        header.extend(CLUSTER.to_be_bytes()); // the refcount table
        header.extend((self.refcount_table as u32).to_be_bytes());
        header.extend([0; 12]); // no snapshots
        header.extend([0; 24]); // no features
        header.extend(4_u32.to_be_bytes()); // refcounts of 1 << 4 bits
        header.extend(HEADER.to_be_bytes());
        header.resize(HEADER as usize, 0);
        header
    }
}

/// Appends a table of `clusters` clusters whose entries are numbers of clusters, 0 for none.
fn push_table(head: &mut Vec<u8>, clusters: u64, entries: impl Iterator<Item = u64>, flags: u64) {
    let end = head.len() + (clusters * CLUSTER) as usize;
    for cluster in entries {
        let entry = if cluster == 0 { 0 } else { (cluster * CLUSTER) | flags };
        head.extend(entry.to_be_bytes());
    }
    head.resize(end, 0);
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, proptest};

    use super::*;
    use crate::Digest;

    fn chunk(size: u32) -> Extent {
        Extent::Chunk { size, name: Digest::of(b"") }
    }

    #[test]
    fn an_empty_and_a_huge_disk_have_a_layout() {
        let empty = Layout::new(&Manifest::plain(Vec::new()));
        assert_eq!(empty.render_head().len() as u64, empty.len());
        // 10 TiB with a block at either end.
        let extents = vec![chunk(4096), Extent::Zero((10 << 40) - 8192), chunk(4096)];
        let huge = Layout::new(&Manifest::plain(extents));
        assert_eq!((huge.l1, huge.l2.len(), huge.used.len()), (3, 2, 2));
        assert_eq!(huge.place((10 << 40) - 4096), huge.len() - 4096);
        // Where refcounts need a second block to count themselves.
        let full = Layout::new(&Manifest::plain(vec![chunk(1 << 18); (REFCOUNTS / 4) as usize]));
        assert_eq!(full.refcount_blocks, 2);
    }

    proptest! {
        #[test]
        fn every_chunk_has_a_place_of_its_own(blocks in vec((0_u64..40, 1_u32..65), 0..40)) {
            let extents = blocks.into_iter().flat_map(|(zeros, data)| {
                let zeros = (zeros > 0).then_some(Extent::Zero(zeros * 4096));
                zeros.into_iter().chain([chunk(data * 4096)])
            });
            let manifest = Manifest::plain(extents.collect());
            let layout = Layout::new(&manifest);
            let mut end = layout.render_head().len() as u64;
            for (offset, extent) in manifest.placed() {
                if let Extent::Chunk { size, .. } = extent {
                    assert!(layout.place(offset) >= end);
                    assert_eq!(layout.place(offset) % CLUSTER, offset % CLUSTER);
                    end = layout.place(offset) + u64::from(size);
                    assert_eq!(layout.place(offset + u64::from(size) - 1), end - 1);
                }
            }
            assert!(end <= layout.len());
        }
    }
}
