//! Writing while the server is killed: a ledger of pages, each write of which is remembered once it is acknowledged.
//!
//! Invariant: a page's contents follow from its number and its version, so that any older or torn page is recognised.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use remap_nbd::Client;

use super::random::Random;
use super::tools::{FS_BLOCK, FileExtent};

/// Clients that write at the same time.
pub(crate) const WRITERS: usize = 4;

/// The ledger's pages on the volume, and what was acknowledged of each.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// Byte offset on the volume of each page.
    pages: Vec<u64>,
    /// Last version of each page that was acknowledged; 0: never written.
    acknowledged: Vec<AtomicU64>,
    /// Acknowledged writes in all.
    writes: AtomicU64,
    seed: u64,
}

/// What is on the volume after a crash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Audit {
    /// Pages that hold their last acknowledged version.
    pub exact: u64,
    /// Pages that hold a version whose write was under way.
    pub newer: u64,
    /// Pages that hold anything else, or cannot be read: there must be none.
    pub missing: u64,
}

impl Ledger {
    /// The ledger of a file that lies in these extents.
    pub(crate) fn of(extents: &[FileExtent], seed: u64) -> Arc<Self> {
        let pages: Vec<u64> =
            extents.iter().flat_map(|e| e.blocks.start..e.blocks.end).map(|block| block * FS_BLOCK).collect();
        let acknowledged = pages.iter().map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { pages, acknowledged, writes: AtomicU64::new(0), seed })
    }

    /// Pages.
    pub(crate) fn len(&self) -> u64 {
        self.pages.len() as u64
    }

    /// Acknowledged writes so far.
    pub(crate) fn writes(&self) -> u64 {
        self.writes.load(Ordering::Acquire)
    }

    /// What version `version` of page `page` looks like.
    fn contents(&self, page: usize, version: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(FS_BLOCK).unwrap_or(0)];
        let mut random = Random::seeded(self.seed, (page as u64) << 20 ^ version);
        random.fill(&mut bytes);
        for (to, from) in bytes.iter_mut().zip(version.to_le_bytes()) {
            *to = from;
        }
        bytes
    }

    /// Writes the pages of writer `writer` in turn, version after version, until the connection breaks or `versions` are
    /// written. Every fourth write is durable before it is acknowledged.
    pub(crate) fn write(&self, client: &mut Client, writer: usize, versions: u64) {
        for _ in 0..versions {
            let mine = self.pages.iter().zip(&self.acknowledged).enumerate().skip(writer).step_by(WRITERS);
            for (page, (&offset, acknowledged)) in mine {
                let version = acknowledged.load(Ordering::Acquire) + 1;
                if client.write(offset, &self.contents(page, version), page % 16 < WRITERS).is_err() {
                    return;
                }
                acknowledged.store(version, Ordering::Release);
                self.writes.fetch_add(1, Ordering::AcqRel);
            }
        }
    }

    /// Reads all pages back.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) fn audit(&self, client: &mut Client) -> anyhow::Result<Audit> {
        let mut audit = Audit::default();
        let mut bytes = vec![0; usize::try_from(FS_BLOCK)?];
        for (page, (&offset, acknowledged)) in self.pages.iter().zip(&self.acknowledged).enumerate() {
            let acknowledged = acknowledged.load(Ordering::Acquire);
            let bad = client.read(offset, &mut bytes)?;
            let version =
                bytes.first_chunk().map(|b| u64::from_le_bytes(*b)).context("a page is not empty")?;
            let whole = bad.is_empty() && bytes == self.contents(page, version);
            match version {
                // Never acknowledged: whatever was there before, or what was being written.
                _ if acknowledged == 0 => audit.newer += u64::from(whole && version == 1),
                v if whole && v == acknowledged => audit.exact += 1,
                v if whole && v == acknowledged + 1 => audit.newer += 1,
                _ => audit.missing += 1,
            }
        }
        Ok(audit)
    }

    /// What the whole file must be once every page is acknowledged.
    pub(crate) fn file(&self) -> Vec<u8> {
        let versions = self.acknowledged.iter().map(|v| v.load(Ordering::Acquire));
        versions.enumerate().flat_map(|(page, version)| self.contents(page, version)).collect()
    }
}
