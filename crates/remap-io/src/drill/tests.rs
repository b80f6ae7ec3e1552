use super::*;

fn drill(spec: &str) -> Drill {
    Drill::parse(spec).unwrap_or_else(|e| panic!("{e}"))
}

fn judge(drill: &Drill, act: Act, sectors: Range<u64>) -> Judged {
    drill.judge(act, std::slice::from_ref(&sectors))
}

fn fails(drill: &Drill, act: Act, sectors: Range<u64>) -> bool {
    judge(drill, act, sectors).failure.is_some()
}

#[test]
fn bad_sectors_fail_what_touches_them() {
    let d = drill("bad=sectors:100-199;4711,errno=ENODATA");
    for (sectors, expected) in
        [(0..100, false), (99..101, true), (199..200, true), (200..4711, false), (0..9999, true)]
    {
        assert_eq!(fails(&d, Act::Read, sectors.clone()), expected, "{sectors:?}");
        assert_eq!(fails(&d, Act::Write, sectors), expected);
    }
    assert!(!fails(&d, Act::Flush, 0..9999));
    assert!(!fails(&d, Act::Discard, 0..9999));
    assert_eq!(judge(&d, Act::Read, 100..101).failure, Some(Failure::Errno(Errno::NODATA)));
    d.wrote(0..9999);
    assert_eq!(d.bad_sectors(), 101, "nothing heals without `heal`");
    d.set_enabled(false);
    assert!(!fails(&d, Act::Read, 100..101));
    assert_eq!(d.counts().failed, 7);
    assert_eq!(d.counts().operations, 13);
}

#[test]
fn only_the_operations_it_is_on() {
    let d = drill("bad=sectors:5,on=read");
    assert!(fails(&d, Act::Read, 5..6) && !fails(&d, Act::Write, 5..6));
    let d = drill("bad=sectors:5,on=write");
    assert!(!fails(&d, Act::Read, 5..6) && fails(&d, Act::Write, 5..6));
    let d = drill("rate=1,on=flush");
    assert!(!fails(&d, Act::Read, 5..6) && fails(&d, Act::Flush, 0..0));
}

#[test]
fn writes_heal_and_the_state_file_remembers() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("healed");
    let spec = format!("bad=sectors:100-199,heal,state={}", state.display());
    let d = drill(&spec);
    assert!(!fails(&d, Act::Write, 0..150));
    d.wrote(0..150);
    d.wrote(160..161);
    assert!(
        !fails(&d, Act::Read, 100..150) && fails(&d, Act::Read, 150..151) && !fails(&d, Act::Read, 160..161)
    );
    assert_eq!((d.bad_sectors(), d.counts().healed_sectors), (49, 51));
    drop(d);
    assert_eq!(std::fs::read_to_string(&state).unwrap(), "100-149\n160-160\n");
    // A crash in the middle of a line: the cut-off number does not count.
    std::fs::write(&state, "100-149\n160-160\n170-19").unwrap();
    assert_eq!(drill(&spec).bad_sectors(), 49);
    let d = drill("bad=sectors:1,heal");
    d.wrote(1..2);
    assert!(!fails(&d, Act::Read, 0..10));
}

#[test]
fn a_map_file_with_chosen_statuses() {
    let dir = tempfile::tempdir().unwrap();
    let map = dir.path().join("map");
    std::fs::write(&map, "0 +\n0 512 +\n512 512 -\n1024 512 *\n1536 512 ?\n").unwrap();
    assert_eq!(drill(&format!("bad={}", map.display())).bad_sectors(), 1);
    assert_eq!(drill(&format!("bad={},statuses=-*/?", map.display())).bad_sectors(), 3);
    let blocks = dir.path().join("blocks");
    std::fs::write(&blocks, "3\n").unwrap();
    let d = drill(&format!("bad={},format=badblocks,block=4096", blocks.display()));
    assert!(fails(&d, Act::Read, 31..32) && !fails(&d, Act::Read, 32..33));
    std::fs::write(&map, "0 +\n0 512 nonsense\n").unwrap();
    let error = Drill::parse(&format!("bad={}", map.display())).unwrap_err().to_string();
    assert!(error.contains("line 2"), "{error}");
    let error = Drill::parse("bad=/no/such/file").unwrap_err().to_string();
    assert!(error.contains("/no/such/file"), "{error}");
}

#[test]
fn a_device_that_goes_and_comes_back() {
    let d = drill("gone-after=2ops,gone-for=3ops");
    let outcomes: Vec<_> = (0..7).map(|_| judge(&d, Act::Write, 0..1).failure).collect();
    assert_eq!(
        outcomes,
        [None, None, Some(Failure::Gone), Some(Failure::Gone), Some(Failure::Gone), None, None]
    );
    assert_eq!(d.counts().gone, 3);
    let d = drill("gone-after=0s");
    assert_eq!(judge(&d, Act::Flush, 0..0).failure, Some(Failure::Errno(Errno::IO)));
    assert_eq!(judge(&d, Act::Read, 0..1).failure, Some(Failure::Gone));
}

#[test]
fn chance_is_seeded_and_bounded() {
    let strikes = |spec: &str| -> Vec<bool> {
        let d = drill(spec);
        (0..2000).map(|n| fails(&d, Act::Read, n..n + 1)).collect()
    };
    let some = strikes("errno=ENOLINK,rate=0.1,seed=7");
    assert_eq!(some, strikes("errno=ENOLINK,rate=0.1,seed=7"));
    assert_ne!(some, strikes("errno=ENOLINK,rate=0.1,seed=8"));
    let count = some.iter().filter(|&&s| s).count();
    assert!((100..400).contains(&count), "{count} of 2000 at a rate of 0.1");
    assert!(strikes("rate=1").iter().all(|&s| s));
    assert!(strikes("rate=0").iter().all(|&s| !s));
    assert_eq!(strikes("rate=1,never-after=5").iter().filter(|&&s| s).count(), 5);
    assert_eq!(strikes("rate=1,after=10ops").iter().position(|&s| s), Some(10));
}

#[test]
fn delays_add_up() {
    let d = drill("bad=sectors:5,latency=5ms,bad-latency=2s");
    assert_eq!(judge(&d, Act::Read, 0..1).delay, Duration::from_millis(5));
    assert_eq!(judge(&d, Act::Read, 5..6).delay, Duration::from_millis(2005));
}

#[test]
fn wrong_specifications_say_where_and_what() {
    let table = [
        ("bad=sectors:1,colour=red", 15, "known keys: bad, format"),
        ("", 1, "unknown key"),
        ("rate=2", 1, "0 to 1"),
        ("rate=-1", 1, "0 to 1"),
        ("rate=0.1,rate=0.2", 10, "twice"),
        ("latency=5", 1, "500us, 5ms"),
        ("gone-after=5x", 1, "100ops"),
        ("errno=EWHAT", 1, "ENODATA"),
        ("bad=", 1, "needs a value"),
        ("bad", 1, "needs a value"),
        ("heal", 1, "add `bad=`"),
        ("heal=yes", 1, "takes no value"),
        ("bad=sectors:1,rate=0.5", 1, "exclude"),
        ("gone-for=5s", 1, "gone-after"),
        ("gone-after=5s,gone-for=5ops", 1, "same kind"),
        ("bad=sectors:1,state=x", 1, "add `heal`"),
        ("statuses=xyz", 1, "- * / ? +"),
        ("on=never", 1, "both"),
        ("volatile-cache=0", 1, "64M"),
        ("volatile-cache=5T", 1, "64M"),
    ];
    for (spec, position, says) in table {
        let Err(DrillError::Syntax(error)) = Drill::parse(spec) else { panic!("{spec} was taken") };
        assert_eq!(error.position, position, "{spec}");
        assert!(error.to_string().contains(says), "{spec}: {error}");
    }
}

#[test]
fn spans_split_and_shrink() {
    let mut spans = Spans::default();
    spans.insert(10..20);
    spans.insert(30..40);
    assert_eq!(spans.remove(15..16), vec![15..16]);
    assert_eq!(spans.remove(19..31), vec![30..31, 19..20]);
    assert_eq!(spans.remove(0..5), vec![]);
    assert_eq!(spans.total(), 5 + 3 + 9);
    assert!(spans.touches(&(0..11)) && !spans.touches(&(15..16)) && !spans.touches(&(40..50)));
}
