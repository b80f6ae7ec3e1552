//! Metadata at rest: what lies on the spares of a volume that nobody serves, taken at each moment of a short life.
//!
//! Invariant: an image is bytes and nothing else; what recovery makes of it depends on them alone.

use remap_core::engine::{Command, Engine, EngineConfig, Event, Notice};
use remap_core::op::{Buffer, DeviceId, Fault, OpKind};
use remap_core::recovery::{Recovered, RecoveryError, SpareReader, recover, shape_of};
use remap_core::units::{Extent, Now, Sector};
use remap_format::layout::{self, CopyPlace, CopyShape};
use remap_format::{COPIES, Cause, Entry, Superblock};

use crate::script::Act;
use crate::world::World;
use crate::{Rule, Violation};

/// The spares of a volume.
#[derive(Clone, Debug)]
pub struct Image {
    /// The volume as it was adopted: where copies lie, and how large they are.
    pub volume: Superblock,
    /// The bytes of each spare.
    pub spares: Vec<Vec<u8>>,
    /// Byte ranges that cannot be read: spare, first, end.
    pub unreadable: Vec<(usize, u64, u64)>,
}

/// A moment of a life: the spares as they were, and the table that they must give.
#[derive(Clone, Debug)]
pub struct Moment {
    /// The spares.
    pub image: Image,
    /// Generation of the table.
    pub generation: u64,
    /// The table.
    pub table: Vec<Entry>,
}

/// What happens between two moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A block moves: one record in the journal.
    Remap(u64),
    /// A checkpoint.
    Save,
}

impl SpareReader for &Image {
    fn read(&mut self, spare: usize, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.read_at(spare, offset, into)
    }
}

impl Image {
    /// Bytes of a spare.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn read_at(&self, spare: usize, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        let end = offset + into.len() as u64;
        if self.unreadable.iter().any(|&(s, from, to)| s == spare && offset < to && from < end) {
            into.fill(0xee);
            return Err(Fault::Medium);
        }
        let bytes = self.spares.get(spare).and_then(|s| s.get(offset as usize..end as usize));
        into.copy_from_slice(bytes.ok_or(Fault::Gone)?);
        Ok(())
    }

    /// Where the copies lie.
    #[must_use]
    pub fn places(&self) -> Vec<CopyPlace> {
        layout::copy_places(&self.volume.spares, &self.volume.homes).to_vec()
    }

    /// How large they are.
    #[must_use]
    pub fn shape(&self) -> CopyShape {
        shape_of(&self.volume)
    }

    /// The bytes of a copy: spare, first, end.
    #[must_use]
    pub fn range(&self, copy: u8) -> (usize, usize, usize) {
        let place = self.places()[usize::from(copy)];
        let start = place.start as usize;
        (usize::from(place.spare), start, start + self.shape().bytes() as usize)
    }

    /// A copy.
    #[must_use]
    pub fn copy(&self, copy: u8) -> &[u8] {
        let (spare, start, end) = self.range(copy);
        &self.spares[spare][start..end]
    }

    /// A copy, to be damaged.
    pub fn copy_mut(&mut self, copy: u8) -> &mut [u8] {
        let (spare, start, end) = self.range(copy);
        &mut self.spares[spare][start..end]
    }

    /// From now on nothing of a copy can be read.
    pub fn hide(&mut self, copy: u8) {
        let (spare, start, end) = self.range(copy);
        self.unreadable.push((spare, start as u64, end as u64));
    }

    /// What recovery makes of it.
    ///
    /// # Errors
    /// What it refuses.
    pub fn recover(&self) -> Result<Recovered, RecoveryError> {
        let sizes: Vec<u64> = self.spares.iter().map(|s| s.len() as u64).collect();
        recover(&mut &*self, &sizes, false)
    }

    /// All copies are written anew, as when the volume is served again; gives what recovery makes of that.
    ///
    /// # Errors
    /// The volume does not come up, or not with good copies.
    pub fn repaired(&self, recovered: Recovered) -> Result<Recovered, Violation> {
        let mut image = self.clone();
        // What could not be read is gone for good: the drive takes new sectors for it as it is written.
        for (spare, from, to) in image.unreadable.drain(..) {
            image.spares[spare][from as usize..to as usize].fill(0);
        }
        let devices = recovered.devices.clone();
        let mut engine = Engine::start(recovered, EngineConfig::default(), Now::default())
            .map_err(|error| Rule::C6.broken(error.to_string()))?;
        let mut live = false;
        loop {
            while let Some(event) = engine.poll_event() {
                live |= event == Event::Notice(Notice::Live);
            }
            let Some(op) = engine.poll_op() else { break };
            if let (DeviceId::Spare(n), OpKind::Write { from: Buffer::Owned(bytes), .. }) =
                (op.device, &op.kind)
            {
                let start = op.extent.start().0 as usize * 512;
                image.spares[devices[usize::from(n)].expect("a spare that is there")]
                    [start..start + bytes.len()]
                    .copy_from_slice(bytes);
            }
            engine.handle_completion(Now::default(), op.id, Ok(()));
        }
        if !live {
            return Err(Rule::C6.broken("the volume never went live"));
        }
        image.recover().map_err(|error| Rule::C8.broken(format!("refused after repair: {error}")))
    }
}

/// The table of a recovered volume, its retired slots behind it.
#[must_use]
pub fn table_of(recovered: &Recovered) -> Vec<Entry> {
    recovered.table.iter().chain(recovered.pool.retired().iter().copied()).collect()
}

/// Is the table the same, and are all copies as they should be after a repair?
///
/// # Errors
/// They are not.
pub fn check_repaired(image: &Image, recovered: Recovered) -> Result<(), Violation> {
    let (generation, table) = (recovered.generation, table_of(&recovered));
    let repaired = image.repaired(recovered)?;
    if table_of(&repaired) != table {
        return Err(Rule::C8.broken(format!("generation {generation}: another table after the repair")));
    }
    if repaired.needs_repair || repaired.good_copies() != COPIES {
        return Err(Rule::C6.broken(format!("copies after the repair: {:?}", repaired.copies)));
    }
    Ok(())
}

/// Lives through the events; a moment at the start and one after each event.
///
/// # Errors
/// A violation in an undisturbed life.
pub fn moments(mut world: World, events: &[Change]) -> Result<Vec<Moment>, Violation> {
    world.assemble()?;
    world.end_all()?;
    let mut moments = vec![moment(&world)?];
    for event in events {
        let command = match *event {
            Change::Remap(block) => {
                let per_block = world.block_sectors();
                let extent = Extent::new(Sector(block * per_block), per_block).expect("a block has sectors");
                Command::Remap(extent, Cause::Manual)
            }
            Change::Save => Command::Save,
        };
        world.begin_act(&Act::Command(command))?;
        world.end_all()?;
        moments.push(moment(&world)?);
    }
    Ok(moments)
}

fn moment(world: &World) -> Result<Moment, Violation> {
    let image = world.image();
    let found = image
        .recover()
        .map_err(|error| Rule::C8.broken(format!("an undamaged volume was refused: {error}")))?;
    Ok(Moment { generation: found.generation, table: table_of(&found), image })
}
