//! The thread that has a mapped device suspended and resumed: such a call waits for the device's requests, and the owner must not.
//!
//! Invariant: one call at a time, each answered with one message to the owner. A table that cannot be brought into service is tried
//! again until it can (clients wait for it), except the first one and after the stop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use remap_core::op::{DeviceId, Fault};
use remap_core::recovery::{Recovered, RecoveryError};
use remap_core::units::Block;
use remap_format::{Entry, EntryState};
use remap_io::Device;

use crate::mail::ToOwner;
use crate::volume::{Shared, Stopped, Volume};

/// Pause before a table is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Tries after the stop.
const LAST_TRIES: u32 = 3;

/// What a mapped device is to carry.
#[derive(Clone, Debug)]
pub struct Carried {
    /// The durable table.
    pub entries: Vec<Entry>,
    /// Blocks that no client may reach now, whatever the table says, in order.
    pub closed: Vec<Block>,
    /// The spares, with their numbers in the volume.
    pub spares: Vec<(u8, Device)>,
}

/// Carries clients' requests to the devices without our queues: a mapped device of the kernel.
pub trait Bypass: Send {
    /// Waits until no request is in flight; from then on they wait.
    ///
    /// # Errors
    /// It is not suspended.
    fn suspend(&mut self) -> io::Result<()>;

    /// Requests go on, by this table.
    ///
    /// # Errors
    /// They do not.
    fn carry(&mut self, carried: &Carried) -> io::Result<()>;
}

/// To the thread.
pub(crate) enum Call {
    Suspend,
    Carry(Carried),
}

/// The owner's end of it; the thread ends when this is dropped.
pub(crate) struct BypassThread {
    calls: Option<Sender<Call>>,
    thread: Option<JoinHandle<()>>,
}

impl BypassThread {
    pub(crate) fn start(shared: &Arc<Shared>, bypass: Box<dyn Bypass>) -> io::Result<Self> {
        let (calls, receive) = channel();
        let shared = Arc::clone(shared);
        let thread = std::thread::Builder::new()
            .name("bypass".into())
            .spawn(move || run(&shared, bypass, &receive))?;
        Ok(Self { calls: Some(calls), thread: Some(thread) })
    }

    pub(crate) fn call(&self, call: Call) {
        if let Some(calls) = &self.calls {
            // It is there as long as this is.
            let _ = calls.send(call);
        }
    }
}

impl Drop for BypassThread {
    fn drop(&mut self) {
        self.calls = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Ends the process if the thread panics: clients could wait in the kernel for a call that nobody makes any more. Whoever watches the
/// process starts it again.
struct NeverAlone;

impl Drop for NeverAlone {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

fn run(shared: &Shared, mut bypass: Box<dyn Bypass>, calls: &Receiver<Call>) {
    let _never_alone = NeverAlone;
    let mut first = true;
    for call in calls {
        let answer = match call {
            Call::Suspend => ToOwner::Suspended(bypass.suspend()),
            Call::Carry(carried) => {
                let mut outcome = bypass.carry(&carried);
                let mut last_tries = LAST_TRIES;
                while outcome.is_err() && !first && last_tries > 0 {
                    std::thread::sleep(RETRY);
                    outcome = bypass.carry(&carried);
                    if shared.stopping.load(Ordering::Acquire) {
                        last_tries -= 1;
                    }
                }
                first = false;
                ToOwner::Carries(outcome)
            }
        };
        if !shared.owner.post(answer) {
            return;
        }
    }
}

impl Volume {
    /// Keeps blocks from the clients of a mapped device, for requests of ours that write to them. Waits until they cannot reach them.
    ///
    /// # Errors
    /// [`Stopped`]; or the device cannot be suspended.
    pub fn hold(&self, blocks: Vec<Block>) -> Result<Hold, Stopped> {
        let id = self.shared.holds.fetch_add(1, Ordering::Relaxed);
        let (granted, is_granted) = channel();
        // From here on it is released, however the wait ends.
        let hold = Hold { shared: Arc::clone(&self.shared), id };
        self.shared.owner.post(ToOwner::Hold { id, blocks, granted });
        is_granted.recv().map(|()| hold).map_err(|_| Stopped)
    }

    /// The kernel failed a request of a mapped device's client, in a way that does not blame the medium (C4).
    pub fn report(&self, device: DeviceId, fault: Fault) {
        self.shared.owner.post(ToOwner::Report { device, fault });
    }
}

/// Blocks that no client of a mapped device can reach while this lives.
pub struct Hold {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.owner.post(ToOwner::Release { id: self.id });
    }
}

/// Drops the entries of blocks on the main device whose unreadable sectors it will itself fail to read. The kernel lets clients
/// overwrite those without our knowing: an entry that called them lost would hide what was written.
pub(crate) fn let_go_of_pending(recovered: &mut Recovered) -> Result<usize, RecoveryError> {
    let witnessed = |entry: &Entry| entry.state == EntryState::Pending && !entry.flags.stale();
    let pending: Vec<Entry> = recovered.table.iter().filter(witnessed).collect();
    for entry in &pending {
        let absent = Entry { state: EntryState::Absent, lost: 0, ..*entry };
        recovered.table.apply(&absent)?;
    }
    Ok(pending.len())
}
