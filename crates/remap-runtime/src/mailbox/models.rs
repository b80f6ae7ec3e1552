//! Models of the mailbox: nobody sleeps through a message.
//!
//! Invariant: the bell is all that these models put in the place of something else (an eventfd); a receiver that waits for a bell that
//! nobody will ring is a deadlock, which the checkers report.

use std::sync::Arc;

#[cfg(loom)]
use loom::sync::{Condvar, Mutex};
#[cfg(all(shuttle, not(loom)))]
use shuttle::sync::{Condvar, Mutex};

use remap_core::sync::models::{explore, thread};

use super::{Bell, Mailbox};

/// An eventfd: rings until it is silenced.
#[derive(Debug)]
pub(crate) struct ModelBell {
    rings: Mutex<bool>,
    rung: Condvar,
}

impl Bell for ModelBell {
    fn ring(&self) {
        *self.rings.lock().expect("no panic") = true;
        self.rung.notify_one();
    }

    fn silence(&self) {
        *self.rings.lock().expect("no panic") = false;
    }
}

impl<M> Mailbox<M, ModelBell> {
    pub(crate) fn of_model() -> Arc<Self> {
        let bell = ModelBell { rings: Mutex::new(false), rung: Condvar::new() };
        Arc::new(Self::with(Arc::new(bell)))
    }

    /// What the owner and the queues do when they have nothing else to do.
    pub(crate) fn wait(&self) {
        if self.has_mail() {
            return;
        }
        let mut rings = self.wake.rings.lock().expect("no panic");
        while !*rings {
            rings = self.wake.rung.wait(rings).expect("no panic");
        }
    }
}

/// Two senders, and a receiver that sleeps whenever there is nothing to take.
fn every_message_arrives() {
    let mailbox = Mailbox::of_model();
    let senders: Vec<_> = [1, 2]
        .map(|message| {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || assert!(mailbox.post(message), "it is open"))
        })
        .into();
    let mut sum = 0;
    while sum < 3 {
        sum += mailbox.take().into_iter().sum::<i32>();
        if sum < 3 {
            mailbox.wait();
        }
    }
    for sender in senders {
        sender.join().expect("the sender ends");
    }
}

/// A message is taken, returned by the close, or refused.
fn a_close_loses_nothing() {
    let mailbox = Mailbox::of_model();
    let sender = {
        let mailbox = Arc::clone(&mailbox);
        thread::spawn(move || i32::from(mailbox.post(1)) + i32::from(mailbox.post(1)))
    };
    let taken: i32 = mailbox.take().into_iter().sum();
    let left: i32 = mailbox.close().into_iter().sum();
    let posted = sender.join().expect("the sender ends");
    assert_eq!(taken + left, posted, "as many as were posted");
}

#[test]
fn mailbox_every_message_arrives() {
    explore("mailbox_every_message_arrives", 3, None, every_message_arrives);
}

#[test]
fn mailbox_a_close_loses_nothing() {
    explore("mailbox_a_close_loses_nothing", 3, None, a_close_loses_nothing);
}
