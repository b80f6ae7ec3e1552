//! Messages to a thread that also waits for I/O.
//!
//! Invariant: while nobody holds the inbox, the bell rings if and only if a message is in it. So no receiver sleeps through a
//! message, and none is kept awake by one that it has taken.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use remap_core::sync::{AtomicBool, Ordering};
use remap_io::Wake;

#[cfg(loom)]
use loom::sync::Mutex;
#[cfg(all(shuttle, not(loom)))]
use shuttle::sync::Mutex;
#[cfg(not(any(loom, shuttle)))]
use std::sync::Mutex;

#[cfg(all(test, any(loom, shuttle)))]
pub(crate) mod models;

/// What the receiver hears while it waits for something else.
pub(crate) trait Bell {
    /// It rings until it is silenced.
    fn ring(&self);
    /// It rings no more.
    fn silence(&self);
}

impl Bell for Wake {
    fn ring(&self) {
        self.wake();
    }

    fn silence(&self) {
        self.clear();
    }
}

/// A queue of messages.
#[derive(Debug)]
pub(crate) struct Mailbox<M, B = Wake> {
    inbox: Mutex<Inbox<M>>,
    /// The bell rings: a cheap test whether there is anything to take. Changed under the lock only.
    waiting: AtomicBool,
    pub(crate) wake: Arc<B>,
}

#[derive(Debug)]
struct Inbox<M> {
    messages: VecDeque<M>,
    closed: bool,
}

impl<M> Mailbox<M> {
    pub(crate) fn open() -> std::io::Result<Self> {
        Ok(Self::with(Wake::create()?))
    }
}

impl<M, B: Bell> Mailbox<M, B> {
    fn with(wake: Arc<B>) -> Self {
        let inbox = Mutex::new(Inbox { messages: VecDeque::new(), closed: false });
        Self { inbox, waiting: AtomicBool::new(false), wake }
    }

    /// `false`: the receiver is gone and the message was dropped.
    pub(crate) fn post(&self, message: M) -> bool {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if inbox.closed {
            return false;
        }
        inbox.messages.push_back(message);
        // Under the lock: a ring after the message was taken would keep the receiver awake until the next one.
        if !self.waiting.swap(true, Ordering::Release) {
            self.wake.ring();
        }
        true
    }

    /// Everything that was posted.
    pub(crate) fn take(&self) -> VecDeque<M> {
        if !self.has_mail() {
            return VecDeque::new();
        }
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.store(false, Ordering::Release);
        self.wake.silence();
        std::mem::take(&mut inbox.messages)
    }

    /// No more messages: what was posted and not taken.
    pub(crate) fn close(&self) -> VecDeque<M> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        inbox.closed = true;
        std::mem::take(&mut inbox.messages)
    }

    pub(crate) fn has_mail(&self) -> bool {
        self.waiting.load(Ordering::Acquire)
    }
}
