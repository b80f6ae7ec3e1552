//! Preloaded into User-mode Linux of Linux 6.1: lets it write back registers on processors that have more of them than it keeps.
//!
//! It keeps the extended state of a process in a buffer of fixed size. To read that much is fine; to write it back is refused by hosts whose
//! processors have more (AMX alone is 8 KiB), which take all or nothing. Here the rest is read first and goes with it.
//!
//! Invariant: what the caller did not give stays as it is in the process; every other request passes unchanged.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::sync::{Mutex, OnceLock, TryLockError};

const GETREGSET: c_int = 0x4204;
const SETREGSET: c_int = 0x4205;
/// The set of registers that XSAVE knows, for ptrace.
const EXTENDED: usize = 0x202;
/// More than any processor has.
const MOST: usize = 64 << 10;

#[repr(C)]
struct Buffer {
    base: *mut c_void,
    length: usize,
}

type Ptrace = unsafe extern "C" fn(c_int, ...) -> c_long;

/// Not on the stack: those of User-mode Linux are small.
static STATE: Mutex<[u8; MOST]> = Mutex::new([0; MOST]);

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// The C library's own.
fn next() -> Ptrace {
    static NEXT: OnceLock<Ptrace> = OnceLock::new();
    const NAME: &CStr = c"ptrace";
    /// The library after this one, for `dlsym`.
    const AFTER: *mut c_void = -1_isize as *mut c_void;
    *NEXT.get_or_init(|| {
        // SAFETY: a name that ends in a zero, and the handle that every C library of Linux knows.
        let found = unsafe { dlsym(AFTER, NAME.as_ptr()) };
        if found.is_null() {
            std::process::abort();
        }
        // SAFETY: the C library declares its function of that name so.
        unsafe { std::mem::transmute::<*mut c_void, Ptrace>(found) }
    })
}

/// `ptrace(2)`.
///
/// # Safety
/// As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptrace(
    request: c_int,
    process: c_int,
    address: *mut c_void,
    data: *mut c_void,
) -> c_long {
    let next = next();
    // SAFETY: the caller's arguments.
    let plain = || unsafe { next(request, process, address, data) };
    if request != SETREGSET || address.addr() != EXTENDED {
        return plain();
    }
    // There is one thread that traces; should there be another, the host decides.
    let mut state = match STATE.try_lock() {
        Ok(state) => state,
        Err(TryLockError::Poisoned(state)) => state.into_inner(),
        Err(TryLockError::WouldBlock) => return plain(),
    };
    let mut whole = Buffer { base: state.as_mut_ptr().cast(), length: MOST };
    // SAFETY: `whole` names `MOST` bytes of ours.
    let read = unsafe { next(GETREGSET, process, address, (&raw mut whole).cast::<c_void>()) };
    // SAFETY: for this request the caller gives such a buffer.
    let given = unsafe { &*data.cast::<Buffer>() };
    if read != 0 || given.length >= whole.length {
        return plain();
    }
    // SAFETY: the caller's buffer holds `length` bytes, and ours more than that.
    unsafe { std::ptr::copy_nonoverlapping(given.base.cast::<u8>(), state.as_mut_ptr(), given.length) };
    // SAFETY: `whole` names bytes of ours, as many as the host has just given.
    unsafe { next(request, process, address, (&raw mut whole).cast::<c_void>()) }
}
