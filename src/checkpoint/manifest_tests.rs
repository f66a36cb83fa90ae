use super::*;

fn manifest() -> Manifest {
    Manifest {
        format: FORMAT,
        generation: 3,
        created: 1.5,
        reason: Reason::Vacate,
        job: Some("1.0".into()),
        owner: None,
        attempt: 0,
        program: "sim".into(),
        condor_criu: "0.1.0".into(),
        host: Host {
            name: "h".into(),
            kernel: "6".into(),
            criu: "4.2.1".into(),
            cpu: Processor { needs: BTreeSet::from(["avx2".into()]), ..Processor::default() },
            page_size: 4096,
            boot: None,
        },
        identity: Inner { uid: 1, gid: 1, groups: vec![1] },
        clock: ClockReadings::default(),
        job_dir: "/job".into(),
        job_dir_mode: 0o755,
        network: Network::Host,
        tree: Tree { root: 300, main: 301 },
        streams: vec![],
        relayed: vec![],
        readers: vec![],
        inputs: vec![],
        removed: vec![],
        sockets: vec![],
        locks: vec![],
        unpacked_bytes: None,
        files: vec![],
        limits: Limits::default(),
        kernel_features: BTreeSet::new(),
        finished: None,
        cost: Cost::default(),
        history: History::default(),
    }
}

#[test]
fn a_later_addition_does_not_disturb_and_a_missing_part_does() {
    let manifest = manifest();
    let mut json = serde_json::to_value(&manifest).unwrap();
    json["a_later_addition"] = 1.into();
    assert_eq!(serde_json::from_value::<Manifest>(json.clone()).unwrap(), manifest);
    json.as_object_mut().unwrap().remove("tree");
    assert!(serde_json::from_value::<Manifest>(json).is_err());
}

#[test]
fn a_name_that_is_no_text_travels() {
    use std::os::unix::ffi::OsStrExt;
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(b"in\xff"));
    let mut manifest = manifest();
    manifest.inputs = vec![Input { path, size: 1, digest: String::new() }];
    let json = serde_json::to_string(&manifest).unwrap();
    assert!(json.contains(r#"{"hex":"696eff"}"#), "{json}");
    assert_eq!(parse("cannot use it", json.as_bytes()).unwrap(), manifest);
}

#[test]
fn paths_that_lead_out_are_refused() {
    let good = serde_json::to_value(manifest()).unwrap();
    let read = |key: &str, value: serde_json::Value| {
        let mut json = good.clone();
        json[key] = value;
        parse("cannot use it", &serde_json::to_vec(&json).unwrap())
    };
    for path in ["../out", "/etc/passwd", "a/../../b", "", "."] {
        let stream = serde_json::json!([{"descriptor": 1, "path": path, "size": 0}]);
        assert!(read("streams", stream).is_err(), "{path:?} as a stream");
        let input = serde_json::json!([{"path": path, "size": 0, "digest": ""}]);
        assert!(read("inputs", input).is_err(), "{path:?} as an input");
    }
    for path in ["job", "/", "/a/b", "/..", "", "/a/.."] {
        assert!(read("job_dir", path.into()).is_err(), "{path:?} as the job's directory");
    }
    assert!(read("streams", serde_json::json!([{"descriptor": 1, "path": "deep/out", "size": 0}])).is_ok());
    assert!(read("inputs", serde_json::json!([{"path": "deep/in", "size": 0, "digest": ""}])).is_ok());
    assert!(read("job_dir", "/elsewhere".into()).is_ok());
}
