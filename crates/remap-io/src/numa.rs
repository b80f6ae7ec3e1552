//! NUMA nodes: a thread that serves requests stays near the disk, or, where that is not known, near its own memory.
//!
//! Invariant: a thread is only ever narrowed to processors that it may use anyway; on a machine with one node, or where the kernel
//! does not tell, it is left alone.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Where the kernel tells of nodes.
const NODES: &str = "/sys/devices/system/node";

/// A node and its processors.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    number: u32,
    processors: Vec<usize>,
}

/// Binds the calling thread to the processors of node `near`, or, if that is not known, to those of one node after the other. Gives the node, if
/// it did.
pub fn bind_thread(near: Option<u32>) -> Option<u32> {
    static HERE: OnceLock<Vec<Node>> = OnceLock::new();
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let nodes = HERE.get_or_init(|| nodes(Path::new(NODES)));
    let allowed = sched_getaffinity(None).ok()?;
    let may = |processor: &usize| *processor < CpuSet::MAX_CPU && allowed.is_set(*processor);
    let (number, processors) = choose(nodes, near, may, || TURN.fetch_add(1, Ordering::Relaxed))?;
    let mut set = CpuSet::new();
    processors.iter().for_each(|&processor| set.set(processor));
    sched_setaffinity(None, &set).ok().map(|()| number)
}

/// Node and processors for a thread; `None`: there is nothing to choose.
fn choose(
    nodes: &[Node],
    near: Option<u32>,
    may: impl Fn(&usize) -> bool,
    turn: impl FnOnce() -> usize,
) -> Option<(u32, Vec<usize>)> {
    let usable: Vec<(u32, Vec<usize>)> = (nodes.iter())
        .map(|node| (node.number, node.processors.iter().copied().filter(&may).collect::<Vec<_>>()))
        .filter(|(_, processors)| !processors.is_empty())
        .collect();
    if usable.len() < 2 {
        return None;
    }
    let close = usable.iter().position(|(number, _)| Some(*number) == near);
    usable.get(close.unwrap_or_else(|| turn() % usable.len())).cloned()
}

/// The nodes that have processors.
fn nodes(folder: &Path) -> Vec<Node> {
    let mut found: Vec<Node> = (fs::read_dir(folder).into_iter().flatten().flatten())
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
            let processors = list(&fs::read_to_string(entry.path().join("cpulist")).ok()?)?;
            (!processors.is_empty()).then_some(Node { number, processors })
        })
        .collect();
    found.sort_by_key(|node| node.number);
    found
}

/// A list as the kernel writes it: `0-3,8`. `None`: it is something else.
fn list(text: &str) -> Option<Vec<usize>> {
    let mut all = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= CpuSet::MAX_CPU {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Vec<Node> {
        vec![Node { number: 0, processors: vec![0, 1] }, Node { number: 2, processors: vec![2, 3] }]
    }

    #[test]
    fn lists_of_processors_are_read() {
        assert_eq!(list("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(list("\n"), Some(vec![]));
        assert_eq!((list("0-"), list("a"), list("0-99999999999")), (None, None, None));
    }

    #[test]
    fn nodes_are_read_from_their_folders() {
        let folder = tempfile::tempdir().unwrap();
        for (name, processors) in [("node2", "2-3\n"), ("node0", "0-1\n"), ("node1", "\n"), ("power", "1")] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("cpulist"), processors).unwrap();
        }
        assert_eq!(nodes(folder.path()), two(), "a node of memory alone has no processors");
        assert_eq!(nodes(&folder.path().join("none")), []);
    }

    #[test]
    fn a_thread_goes_near_its_disk_or_takes_its_turn() {
        let all = |_: &usize| true;
        assert_eq!(choose(&two(), Some(2), all, || panic!("known")), Some((2, vec![2, 3])));
        assert_eq!(choose(&two(), None, all, || 4), Some((0, vec![0, 1])));
        assert_eq!(choose(&two(), Some(7), all, || 5), Some((2, vec![2, 3])));
        // What it may not use is left out; with one node left there is nothing to choose.
        assert_eq!(choose(&two(), Some(0), |p| *p > 0, || 0), Some((0, vec![1])));
        assert_eq!(choose(&two(), Some(0), |p| *p > 1, || 0), None);
        assert_eq!(choose(&two()[..1], Some(0), all, || 0), None);
    }

    #[test]
    fn whatever_this_machine_is_the_thread_goes_on() {
        let before = sched_getaffinity(None).unwrap();
        let bound = bind_thread(None);
        assert_eq!(bound.is_none(), sched_getaffinity(None).unwrap() == before);
    }
}
