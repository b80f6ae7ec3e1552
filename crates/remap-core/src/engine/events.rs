//! What the engine has to tell, in order, until the driver takes it.
//!
//! Invariant: the end of every request and command that was taken has a place here, reserved when the engine starts; news for
//! the log have [`MAX_NOTICES`] places, and what comes when those are taken is counted, not kept.

use alloc::collections::VecDeque;

use super::{Event, MAX_COMMANDS, MAX_REQUESTS, Notice};
use crate::memory::{self, NoMemory};

/// Notices that wait for the driver: more than the end of any one commit brings (64 jobs, each with some slots that went bad).
pub const MAX_NOTICES: usize = 1024;

#[derive(Debug)]
pub(super) struct Events {
    queue: VecDeque<Event>,
    /// Of these, how many are ends of requests, ends of commands, notices.
    pub(super) requests: usize,
    pub(super) commands: usize,
    notices: usize,
}

impl Events {
    pub(super) fn with_room() -> Result<Self, NoMemory> {
        let queue = memory::queue(MAX_REQUESTS + MAX_COMMANDS + MAX_NOTICES)?;
        Ok(Self { queue, requests: 0, commands: 0, notices: 0 })
    }

    /// The place in which an event of this kind is counted.
    fn count_of(&mut self, event: &Event) -> &mut usize {
        match event {
            Event::RequestDone { .. } => &mut self.requests,
            Event::CommandDone { .. } => &mut self.commands,
            Event::Notice(_) => &mut self.notices,
        }
    }

    /// Something that was asked for has ended. `submit` and `command` take no more than there is room for here.
    pub(super) fn done(&mut self, event: Event) {
        *self.count_of(&event) += 1;
        memory::push_back(&mut self.queue, event);
    }

    /// `false`: too many notices wait already, and this one is not kept.
    pub(super) fn notice(&mut self, notice: Notice) -> bool {
        let room = self.notices < MAX_NOTICES;
        if room {
            self.done(Event::Notice(notice));
        }
        room
    }

    pub(super) fn take(&mut self) -> Option<Event> {
        let event = self.queue.pop_front()?;
        *self.count_of(&event) -= 1;
        Some(event)
    }
}
