//! What people and policy ask of the engine, at any time.

use remap_core::engine::{Command, CommandId};
use remap_format::Cause;

use super::World;
use crate::Checked;
use crate::rule::Rule;

/// Commands under way at a time, at most.
const MOST_COMMANDS: usize = 3;

impl World {
    pub(super) fn begin_any_command(&mut self) -> Checked {
        let live = self.life.as_ref().is_some_and(|l| l.engine.is_live());
        if !live || !self.scenario.commands || self.commands.len() >= MOST_COMMANDS {
            return self.complete_any();
        }
        let most = self.scenario.main_sectors.div_ceil(self.block_sectors());
        let extent = self.any_extent(most);
        let command = match self.rng.below(12) {
            0..=3 => Command::Remap(extent, self.rng.pick(&[Cause::Manual, Cause::Predicted])),
            4..=6 => Command::Clear(extent),
            7..=8 => Command::Verify { extent, all: self.rng.chance(1, 2) },
            9 => Command::Save,
            10 if self.rng.chance(1, 2) => Command::Suspend,
            _ => Command::Resume,
        };
        self.begin_command(command)
    }

    /// A person asks for something.
    ///
    /// # Errors
    /// What it showed is a violation.
    pub fn begin_command(&mut self, command: Command) -> Checked {
        let id = self.id();
        self.note(11, id, || format!("command {id}: {command:?}"));
        if let Command::Clear(extent) = command {
            let per_block = self.block_sectors();
            for block in extent.start().0 / per_block..extent.end().0.div_ceil(per_block) {
                self.clearing[block as usize] = true;
            }
        }
        match command {
            Command::Suspend => self.suspended = true,
            Command::Resume => self.suspended = false,
            _ => {}
        }
        self.commands.push(id);
        let now = self.now;
        if let Some(life) = &mut self.life {
            let taken = life.engine.command(now, CommandId(id), command);
            taken.map_err(|error| Rule::C6.broken(format!("command {id}: not taken: {error}")))?;
        }
        self.pump()
    }
}
