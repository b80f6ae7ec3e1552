use super::*;

fn bad(start: u64, sectors: u64) -> Run {
    run(start, sectors, Status::Bad)
}

fn run(start: u64, sectors: u64, status: Status) -> Run {
    Run { extent: Extent::new(Sector(start), sectors).unwrap(), status }
}

fn parse(text: &str) -> Result<BadMap, ParseError> {
    BadMap::parse(text, Format::Auto, None)
}

#[test]
fn a_map_file_of_each_version() {
    let body = "0x00000000  0x00100000  +\n0x00100000  0x00000200  -\n0x00100200  0x200  *\n1049600 512 /\n1050112 512 ?\n";
    let runs = [
        run(0, 2048, Status::Finished),
        bad(2048, 1),
        run(2049, 1, Status::NonTrimmed),
        run(2050, 1, Status::NonScraped),
        run(2051, 1, Status::NonTried),
    ];
    let heads = [
        "# Mapfile. Created by GNU ddrescue version 1.25\n0x24E0015C00     +               1\n",
        "# Rescue Logfile. Created by GNU ddrescue version 1.14\n0x30E8F7200     ?\n",
        "0 F 3 # filling\n",
        "\u{feff}# c\n\n  0x0 G\n",
        "",
    ];
    for head in heads {
        for text in [format!("{head}{body}"), format!("{head}{body}").replace('\n', "\r\n")] {
            assert_eq!(parse(&text).unwrap().runs(), runs, "{head:?}");
        }
    }
}

#[test]
fn wrong_lines_are_named() {
    let table = [
        ("0 + 1\n0 512 +\n1024 512 -\n", 3, Problem::Gap { from: 512, to: 1024 }),
        ("0 + 1\n0 1024 +\n512 512 -\n", 3, Problem::Overlap { from: 512, to: 1024 }),
        ("0 + 1\n0xffffffffffffffff 2 -\n", 2, Problem::TooFar),
        ("# ddrescue\n0 +\n", 0, Problem::Empty),
        ("# ddrescue\nhello\n", 2, Problem::Expected("`POSITION PHASE [PASS]`, as in `0x1000 + 1`")),
        ("0 +\n0 512 x\n", 2, Problem::Expected("a status: one of ? (not tried) * / - (bad) + (read)")),
        ("0 +\n0 -512 -\n", 2, Problem::Expected("a size in bytes, decimal or 0x")),
        ("0 +\n0 512 - 1\n", 2, Problem::Expected("`POSITION SIZE STATUS`, as in `0x1000 0x200 -`")),
        ("0 + x\n0 512 -\n", 1, Problem::Expected("the number of the current pass")),
        ("1\n3-2\n", 2, Problem::Backwards),
        ("1\n2\nx\n", 3, Problem::Expected("a number such as 4711 or 0x1267, or a range such as 100-199")),
        ("0xffffffffffffffff\n", 1, Problem::TooFar),
        ("+5\n", 1, Problem::Expected("a number such as 4711 or 0x1267, or a range such as 100-199")),
    ];
    for (text, line, problem) in table {
        let error = parse(text).unwrap_err();
        assert_eq!((error.line, &error.problem), (line, &problem), "{text:?}: {error}");
    }
    let long = format!("0 +\n0 512 {}", "é".repeat(1000));
    assert!(parse(&long).unwrap_err().to_string().len() < 400);
}

#[test]
fn bad_bytes_round_outwards_and_win() {
    let map = parse("0 +\n0 1000 +\n1000 10 -\n1010 3000 +\n4010 100 ?\n").unwrap();
    assert_eq!(
        map.runs(),
        [run(0, 1, Status::Finished), bad(1, 1), run(2, 5, Status::Finished), run(7, 2, Status::NonTried)]
    );
}

#[test]
fn lists_and_badblocks() {
    let map = parse("# mine\n100-199;4711\n0x10 200\n150 # again\n").unwrap();
    assert_eq!(map.runs(), [bad(16, 1), bad(100, 101), bad(4711, 1)]);
    assert_eq!(map.sectors(&[Status::Bad]), 103);
    let blocks = BadMap::parse("1\n2\n10\n", Format::Auto, Some(4096)).unwrap();
    assert_eq!(blocks.runs(), [bad(8, 16), bad(80, 8)]);
    let problem = |size| BadMap::parse("1\n", Format::Badblocks, size).unwrap_err().problem;
    assert_eq!(problem(None), Problem::BlockSizeMissing);
    assert_eq!(problem(Some(1000)), Problem::BlockSize(1000));
    assert_eq!(problem(Some(0)), Problem::BlockSize(0));
    assert!(parse("").unwrap().runs().is_empty());
}

#[test]
fn overlapping_runs_are_flattened() {
    let map = BadMap::from_runs([
        run(0, 100, Status::Finished),
        bad(10, 5),
        run(12, 10, Status::NonTrimmed),
        run(200, 5, Status::Finished),
        bad(90, 20),
        bad(50, 1),
        bad(51, 1),
    ])
    .unwrap();
    assert_eq!(
        map.runs(),
        [
            run(0, 10, Status::Finished),
            bad(10, 5),
            run(15, 7, Status::NonTrimmed),
            run(22, 28, Status::Finished),
            bad(50, 2),
            run(52, 38, Status::Finished),
            bad(90, 20),
            run(200, 5, Status::Finished),
        ]
    );
    assert_eq!(map.end(), Sector(205));
    let both: Vec<_> =
        map.extents(&[Status::Bad, Status::NonTrimmed]).map(|e| (e.start().0, e.sectors())).collect();
    assert_eq!(both, [(10, 12), (50, 2), (90, 20)]);
}

#[test]
fn what_is_written_reads_back() {
    let map = parse("5-6;100;4095").unwrap();
    let text = map.to_ddrescue(4000, Status::Finished, "two\nlines");
    assert!(text.contains("# two\n# lines\n"));
    let back = parse(&text).unwrap();
    assert_eq!(back.end(), Sector(4000));
    let bads: Vec<_> = back.extents(&[Status::Bad]).map(|e| (e.start().0, e.sectors())).collect();
    assert_eq!(bads, [(5, 2), (100, 1)]);

    let mut blocks = Vec::new();
    map.to_badblocks(4096, &mut blocks).unwrap();
    assert_eq!(String::from_utf8(blocks).unwrap(), "0\n12\n511\n");
    assert!(map.to_badblocks(100, &mut Vec::new()).is_err());
}

/// Real map files of failing disks, where the test machine has them.
#[test]
fn real_maps() {
    let Some(root) = std::env::var_os("DM_REMAP_TEST_DATA") else {
        println!("skipped: DM_REMAP_TEST_DATA is not set");
        return;
    };
    let mut folders = vec![std::path::PathBuf::from(root)];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "map") {
                let text = std::fs::read_to_string(&path).unwrap();
                let map = parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                let sectors = map.end().0;
                let back = parse(&map.to_ddrescue(sectors, Status::NonTried, "")).unwrap();
                assert_eq!(back, map, "{}", path.display());
                let bad: u64 = (text.lines().filter(|line| line.trim_end().ends_with('-')))
                    .filter_map(|line| line.split_whitespace().nth(1))
                    .map(|size| u64::from_str_radix(&size[2..], 16).unwrap())
                    .sum();
                assert_eq!(map.sectors(&[Status::Bad]) * 512, bad, "{}", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 0, "no .map file below DM_REMAP_TEST_DATA");
}
