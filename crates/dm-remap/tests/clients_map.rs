//! What is promised of lost sectors, faults that are not the medium's, leaving, and the exported table.

mod lab;

use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::slice;

use lab::{
    Lab, SECTOR, assert_same, bytes, bytes_at, can, connect, ddrescue_map, nbdkit, sector_list, sha256,
    stamp, stamps, write_sparse,
};
use remap_nbd::Client;

const SECTORS: u64 = 16384;

/// Runs of bad sectors: at both ends, single ones, across blocks, whole blocks, neighbours.
fn runs() -> Vec<Range<u64>> {
    vec![
        0..1,
        9..10,
        100..104,
        109..117,
        800..816,
        1001..1030,
        4096..4352,
        9999..10000,
        10001..10002,
        16376..16384,
    ]
}

fn bad(sector: u64, runs: &[Range<u64>]) -> bool {
    let next = runs.partition_point(|run| run.end <= sector);
    runs.get(next).is_some_and(|run| run.contains(&sector))
}

/// Contents of a sector, or `None` where the server says that there are none.
fn read(client: &mut Client, sector: u64) -> Option<[u8; SECTOR as usize]> {
    let mut bytes = [0; SECTOR as usize];
    match client.read(sector * SECTOR, &mut bytes) {
        Ok(lost) if lost.is_empty() => Some(bytes),
        Ok(_) => None,
        Err(error) if error.code().is_some() => None,
        Err(error) => panic!("reading sector {sector}: {error}"),
    }
}

/// A lab whose volume has these sectors imported as lost.
fn with_lost(lost: &[Range<u64>]) -> Lab {
    let lab = Lab::with_main(SECTORS);
    let map = lab.file("lost.map", &ddrescue_map(SECTORS, lost));
    lab.adopt(&["--map", text(&map)]);
    lab
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

#[test]
fn adopt_leaves_the_main_device_as_it_is() {
    let lab = Lab::with_main(SECTORS);
    let before = (sha256(&lab.main()), fs::metadata(lab.main()).and_then(|m| m.modified()).expect("a time"));
    lab.adopt(&[]);
    let server = lab.serve(&[]);
    for sector in (0..SECTORS).step_by(97) {
        assert_eq!(read(&mut connect(&server.uri()), sector), Some(stamp(1, sector)), "sector {sector}");
    }
    server.stop();
    let after = (sha256(&lab.main()), fs::metadata(lab.main()).and_then(|m| m.modified()).expect("a time"));
    assert!(before == after, "adopt, serve and reads write nothing to the main device");
}

#[test]
fn lost_sectors_agree_with_nbdkit_sector_by_sector() {
    if !can(&["nbdkit"]) {
        return;
    }
    let lost = runs();
    let lab = with_lost(&lost);
    let map = format!("ddrescue-mapfile={}", lab.path("lost.map").display());
    let reference = nbdkit(&lab, "ref", ["--filter=ddrescue", "-r", "file", text(&lab.main()), &map]);
    let server = lab.serve(&[]);
    let (mut ours, mut theirs) = (connect(&server.uri()), connect(&reference.uri()));
    let mut failed = 0;
    for sector in 0..SECTORS {
        let (here, there) = (read(&mut ours, sector), read(&mut theirs, sector));
        assert!(
            here == there,
            "sector {sector}: ours good {}, nbdkit good {}",
            here.is_some(),
            there.is_some()
        );
        assert_eq!(here, (!bad(sector, &lost)).then(|| stamp(1, sector)), "sector {sector}");
        failed += u64::from(here.is_none());
    }
    assert_eq!(failed, lost.iter().map(|run| run.end - run.start).sum::<u64>());
    server.stop();
}

/// Every lost sector is overwritten alone and read at once; its neighbours stay as they are, also over a restart.
fn overwrite_heals(policy: &str, drill: Option<&str>) {
    let lost = runs();
    let lab = with_lost(&lost);
    let mut more = vec!["--policy", policy];
    let spec = drill.map(|more| format!("main:bad=sectors:{},{more}", sector_list(&lost)));
    if let Some(spec) = &spec {
        more.extend(["--drill", spec]);
    }
    let mut server = lab.serve(&more);
    let mut client = connect(&server.uri());
    let healed = |sector: u64| !sector.is_multiple_of(3);
    for sector in lost.iter().cloned().flatten().filter(|sector| healed(*sector)) {
        assert_eq!(read(&mut client, sector), None, "sector {sector} is lost");
        client.write(sector * SECTOR, &stamp(2, sector), false).expect("a write to a lost sector");
        assert_eq!(read(&mut client, sector), Some(stamp(2, sector)), "sector {sector}, overwritten");
    }
    let check = |client: &mut Client, when: &str| {
        for sector in 0..SECTORS {
            let expected = match (bad(sector, &lost), healed(sector)) {
                (false, _) => Some(stamp(1, sector)),
                (true, true) => Some(stamp(2, sector)),
                (true, false) => None,
            };
            assert_eq!(read(client, sector), expected, "sector {sector} {when}");
        }
    };
    check(&mut client, "while serving");
    server.kill_9();
    server = lab.serve(&more);
    check(&mut connect(&server.uri()), "after a kill");
    server.stop();
}

#[test]
fn a_lost_sector_reads_good_after_it_is_overwritten_in_place() {
    overwrite_heals("rewrite-then-remap", None);
}

#[test]
fn a_lost_sector_reads_good_after_it_moved_because_the_disk_takes_no_write() {
    overwrite_heals("rewrite-then-remap", Some("errno=ENODATA"));
}

#[test]
fn a_lost_sector_reads_good_after_it_moved_by_policy() {
    overwrite_heals("remap-only", Some("errno=ENODATA"));
}

#[test]
fn a_bare_eio_of_single_sectors_is_remapped_too() {
    overwrite_heals("rewrite-then-remap", Some("errno=EIO"));
}

#[test]
fn transport_errors_create_no_entry() {
    for errno in ["ENOLINK", "ETIMEDOUT"] {
        let lab = Lab::with_main(SECTORS);
        lab.adopt(&[]);
        let drill = format!("main:bad=sectors:{},errno={errno}", sector_list(&runs()));
        let server = lab.serve(&["--drill", &drill]);
        let mut client = connect(&server.uri());
        for sector in runs().into_iter().flatten() {
            assert_eq!(read(&mut client, sector), None, "{errno}: sector {sector}");
            assert!(
                client.write(sector * SECTOR, &stamp(2, sector), true).is_err(),
                "{errno}: sector {sector}"
            );
        }
        let list = lab.dm_remap(&["map", "list", "CONTROL", "--json"]).ok();
        let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
        assert_eq!(list["entries"].as_array().map(Vec::len), Some(0), "{errno}: {list}");
        drop(client);
        server.stop();
        // Nothing was lost and nothing moved: with the cable mended everything is as it was.
        let server = lab.serve(&[]);
        let mut client = connect(&server.uri());
        for sector in runs().into_iter().flatten() {
            assert_eq!(read(&mut client, sector), Some(stamp(1, sector)), "{errno}: sector {sector}");
        }
        server.stop();
    }
}

/// Sectors that are said to be lost when a volume is adopted.
const LOST: Range<u64> = 2000..2003;

/// A volume with moved blocks, and what it must read as: `None` for lost sectors.
fn lived_in(lab: &Lab) -> Vec<Option<[u8; SECTOR as usize]>> {
    let drill = format!("main:bad=sectors:{},errno=ENODATA", sector_list(&runs()));
    let server = lab.serve(&["--drill", &drill]);
    let mut client = connect(&server.uri());
    let mut now: Vec<_> = (0..SECTORS).map(|sector| Some(stamp(1, sector))).collect();
    for range in [0..64, 96..128, 808..809, 990..1050, 4000..4400, 7000..7001, 10001..10002, 16370..16380] {
        client.write(range.start * SECTOR, &stamps(5, range.clone()), false).expect("a write");
        for sector in range {
            now[sector as usize] = Some(stamp(5, sector));
        }
    }
    client.zero(8192 * SECTOR, 64 * SECTOR, remap_nbd::client::ZeroOptions::default()).expect("zeroes");
    now[8192..8256].fill(Some([0; SECTOR as usize]));
    client.flush().expect("a flush");
    // What was not overwritten and cannot be read is found lost, now or at the import.
    for sector in runs().into_iter().flatten().chain(LOST) {
        let written = now[sector as usize] != Some(stamp(1, sector));
        assert_eq!(read(&mut client, sector).is_some(), written, "sector {sector}");
        if !written {
            now[sector as usize] = None;
        }
    }
    drop(client);
    server.stop();
    now
}

fn assert_is(found: &[u8], expected: &[Option<[u8; SECTOR as usize]>], what: &str) {
    let expected: Vec<u8> = expected
        .iter()
        .enumerate()
        .flat_map(|(sector, bytes)| {
            bytes.unwrap_or_else(|| {
                let at = sector * SECTOR as usize;
                found[at..at + SECTOR as usize].try_into().expect("a sector")
            })
        })
        .collect();
    assert_same(found, &expected, what);
}

#[test]
fn release_gives_the_device_back_with_all_later_writes() {
    let lab = Lab::with_main(SECTORS);
    lab.adopt(&[]);
    let drill = format!("main:bad=sectors:{},errno=ENODATA,on=write", sector_list(&runs()));
    let server = lab.serve(&["--drill", &drill]);
    let mut client = connect(&server.uri());
    for range in [0..64, 96..128, 4000..4400, 16370..16384] {
        client.write(range.start * SECTOR, &stamps(5, range), false).expect("a write");
    }
    client.flush().expect("a flush");
    let mut expected = vec![0; (SECTORS * SECTOR) as usize];
    assert!(client.read(0, &mut expected).expect("a read").is_empty(), "nothing is lost");
    drop(client);
    server.stop();
    assert_ne!(bytes(&lab.main()), expected, "the drill moved blocks away");
    // Without the drill the device takes them back.
    lab.dm_remap(&["release", "MAIN", "SPARE", "--yes"]).ok();
    assert_same(&bytes(&lab.main()), &expected, "the device, released");
}

#[test]
fn release_to_another_device_copies_all_but_what_is_lost() {
    let lab = with_lost(slice::from_ref(&LOST));
    let now = lived_in(&lab);
    let before = sha256(&lab.main());
    let (dest, map) = (lab.path("dest.img"), lab.path("out.map"));
    let args = ["release", "MAIN", "SPARE", "--to", text(&dest), "--lost-map", text(&map), "--yes"];
    lab.dm_remap(&args).code(8);
    assert_is(&bytes(&dest)[..(SECTORS * SECTOR) as usize], &now, "the copy");
    assert!(before == sha256(&lab.main()), "the main device is not touched");
    assert_eq!(bad_of_ddrescue(&map), lost_of(&now), "the map of lost sectors");
}

fn lost_of(now: &[Option<[u8; SECTOR as usize]>]) -> Vec<u64> {
    now.iter().enumerate().filter(|(_, bytes)| bytes.is_none()).map(|(sector, _)| sector as u64).collect()
}

/// Sectors with status `-` of a ddrescue map.
fn bad_of_ddrescue(path: &Path) -> Vec<u64> {
    let text = fs::read_to_string(path).expect("a map");
    runs_of_map(&text).into_iter().flatten().collect()
}

/// Runs of sectors that a ddrescue map does not call good.
fn runs_of_map(text: &str) -> Vec<Range<u64>> {
    let number = |word: &str| match word.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).expect("a number"),
        None => word.parse().expect("a number"),
    };
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()).skip(1);
    let mut runs: Vec<Range<u64>> = Vec::new();
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (start, len) = (number(words[0]), number(words[1]));
        if words[2] != "+" {
            let run = start / SECTOR..(start + len).div_ceil(SECTOR);
            match runs.last_mut() {
                Some(last) if last.end >= run.start => last.end = run.end,
                _ => runs.push(run),
            }
        }
    }
    runs
}

/// Reads a device by a device-mapper table as the kernel would.
fn read_by_table(table: &str, sectors: u64) -> Vec<Option<[u8; SECTOR as usize]>> {
    let mut now = Vec::new();
    for line in table.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| words[index].parse::<u64>().unwrap_or_else(|_| panic!("{line}"));
        assert_eq!(number(0), now.len() as u64, "the table has no gap and no overlap: {line}");
        let len = number(1);
        assert_ne!(len, 0, "{line}");
        match words[2..] {
            ["error"] => now.extend((0..len).map(|_| None)),
            ["linear", path, _] => {
                let bytes = bytes_at(Path::new(path), number(4) * SECTOR, len * SECTOR);
                now.extend(bytes.chunks_exact(SECTOR as usize).map(|sector| sector.try_into().ok()));
            }
            _ => panic!("neither linear nor error: {line}"),
        }
    }
    assert_eq!(now.len() as u64, sectors, "the table covers the whole device");
    now
}

#[test]
fn the_exported_table_gives_the_same_device() {
    let lab = with_lost(slice::from_ref(&LOST));
    let now = lived_in(&lab);
    let (main, spare) = (lab.main(), lab.spare());
    let paths = ["--main-path", text(&main), "--spare-path", text(&spare)];
    let offline: Vec<&str> =
        ["map", "export", "SPARE", "--format", "dmsetup"].into_iter().chain(paths).collect();
    let table = lab.dm_remap(&offline).ok();
    let by_table = read_by_table(&table, SECTORS);
    for (sector, (found, expected)) in by_table.iter().zip(&now).enumerate() {
        assert_eq!(found, expected, "sector {sector} by the table");
    }
    // The serving process says the same.
    let server = lab.serve(&[]);
    let online: Vec<&str> =
        ["map", "export", "CONTROL", "--format", "dmsetup"].into_iter().chain(paths).collect();
    assert_eq!(lab.dm_remap(&online).ok(), table);
    server.stop();
}

/// Real maps, where there are any: with a sparse image of the disk's size, at the ends of every run of bad sectors.
#[test]
fn real_maps_agree_with_nbdkit() {
    let Some(folder) = std::env::var_os("DM_REMAP_TEST_DATA").filter(|name| !name.is_empty()) else {
        println!("DM_REMAP_TEST_DATA names no directory with *.map files: nothing to do");
        return;
    };
    if !can(&["nbdkit"]) {
        return;
    }
    let entries = fs::read_dir(&folder).expect("the directory of DM_REMAP_TEST_DATA");
    let mut maps: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    maps.retain(|path| path.extension().is_some_and(|extension| extension == "map"));
    assert!(!maps.is_empty(), "no *.map in {}", folder.display());
    for map in maps {
        real_map(&map);
    }
}

fn real_map(map: &Path) {
    let lost = runs_of_map(&fs::read_to_string(map).expect("a map"));
    let text_of_map = fs::read_to_string(map).expect("a map");
    let size = size_of_map(&text_of_map);
    let lab = Lab::new();
    let image = write_sparse(&lab.main(), size);
    let sectors = size / SECTOR;
    // The ends of each run and their neighbours; of very many runs, a part spread over all of them.
    let step = lost.len().div_ceil(4000).max(1);
    let ends = lost.iter().step_by(step).flat_map(|run| {
        [run.start.wrapping_sub(1), run.start, run.start.midpoint(run.end), run.end - 1, run.end]
    });
    let mut probes: Vec<u64> = ends.filter(|sector| *sector < sectors).collect();
    probes.dedup();
    for &sector in &probes {
        image.write_all_at(&stamp(1, sector), sector * SECTOR).expect("room for a stamp");
    }
    lab.adopt_to("1G", &["--map", text(map), "--statuses", "-*/?"]);
    let reference = {
        let map = format!("ddrescue-mapfile={}", map.display());
        nbdkit(&lab, "ref", ["--filter=ddrescue", "-r", "file", text(&lab.main()), &map])
    };
    let server = lab.serve(&[]);
    let (mut ours, mut theirs) = (connect(&server.uri()), connect(&reference.uri()));
    for sector in probes {
        let (here, there) = (read(&mut ours, sector), read(&mut theirs, sector));
        assert!(here == there, "{}: sector {sector}: ours {}", map.display(), here.is_some());
        assert_eq!(here.is_none(), bad(sector, &lost), "{}: sector {sector}", map.display());
    }
    server.stop();
}

/// End of the last line of a ddrescue map.
fn size_of_map(text: &str) -> u64 {
    let number = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).expect("a number");
    let last = text.lines().rfind(|line| line.starts_with("0x")).expect("a line");
    let words: Vec<&str> = last.split_whitespace().collect();
    number(words[0]) + number(words[1])
}
