//! Precedence, errors of flags and variables, and that the reference is the README's.

use super::*;

fn sources(flags: &[(&'static str, &str)], variables: &[(&'static str, &str)]) -> Sources {
    let owned =
        |list: &[(&'static str, &str)]| list.iter().map(|(key, text)| (*key, (*text).into())).collect();
    Sources { flags: owned(flags), variables: owned(variables), file: None }
}

#[test]
fn defaults_are_allowed_and_are_what_the_contract_says() {
    let settings = Sources::default().resolve().expect("defaults");
    assert_eq!(settings.listen.to_string(), "127.0.0.1:9464");
    assert_eq!((settings.interval, settings.window), (seconds(1), seconds(60)));
    assert_eq!((settings.max_series, settings.family_max_series), (20_000, 2000));
    assert_eq!((settings.service_grace, settings.full_syscalls), (seconds(600), FullSyscalls::Off));
    assert!((settings.cpu_budget_percent - 1.0).abs() < f64::EPSILON);
    assert!(settings.by_service.is_empty() && settings.disabled_probes == ["softirq_entry"]);
}

#[test]
fn a_flag_comes_before_a_variable_before_the_file_before_the_default() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("agent.toml");
    std::fs::write(&file, "interval = \"4s\"\n").expect("a file");
    for (flag, variable, with_file, expected) in [
        (Some("2s"), Some("3s"), true, 2),
        (None, Some("3s"), true, 3),
        (None, None, true, 4),
        (None, None, false, 1),
        (Some("2s"), None, false, 2),
    ] {
        let of = |text: Option<&str>| text.map(|text| ("interval", text.to_owned())).into_iter().collect();
        let file = with_file.then(|| file.clone());
        let sources = Sources { flags: of(flag), variables: of(variable), file };
        assert_eq!(sources.resolve().expect("allowed").interval, seconds(expected), "{sources:?}");
    }
}

#[test]
fn values_of_flags_and_variables_are_words() {
    let flags = [
        ("window", "2m"),
        ("max_series", " 5000 "),
        ("full_syscalls", "auto"),
        ("full_services", "nginx.service, sshd.service,"),
        ("by_service", "hostscope_syscall_blocked_seconds"),
    ];
    let settings = sources(&flags, &[]).resolve().expect("allowed");
    assert_eq!((settings.window, settings.max_series), (seconds(120), 5000));
    assert_eq!(settings.full_services, ["nginx.service", "sshd.service"]);
    assert_eq!((settings.by_service.len(), settings.full_syscalls), (1, FullSyscalls::Auto));
}

#[test]
fn errors_say_where_and_what_is_allowed() {
    for (key, value, mend) in [
        ("listen", "0.0.0.0:9464", "other addresses have to wait until the agent knows tokens and TLS"),
        ("listen", "9464", "listen takes a loopback address and a port"),
        ("interval", "99ms", "interval takes a duration from 100ms to 60s"),
        ("interval", "61s", "a duration from 100ms to 60s"),
        ("interval", "soon", "a duration from 100ms to 60s"),
        ("window", "2h", "a duration from 10s to 1h"),
        ("max_series", "2999", "a whole number from 3000 to 1000000"),
        ("max_series", "1e3", "a whole number from"),
        ("family_max_series", "-1", "a whole number from 10 to"),
        ("service_grace", "0", "a duration from 10s to 24h"),
        ("by_service", "hostscope_none", "of: hostscope_"),
        ("cpu_budget_percent", "inf", "a number from 0.1 to 100"),
        ("full_syscalls", "yes", "one of off, auto, on"),
        ("disabled_probes", "x", "a list of probes"),
    ] {
        let error = sources(&[(key, value)], &[]).resolve().expect_err(value);
        assert_eq!(error.what, format!("--{} cannot be {value:?}", key.replace('_', "-")));
        assert!(error.mend.contains(mend), "{}", error.mend);
        let error = sources(&[], &[(key, value)]).resolve().expect_err(value);
        let variable = format!("HOSTSCOPE_{}", key.to_uppercase());
        assert_eq!(error.what, format!("the environment's {variable} cannot be {value:?}"));
        assert_eq!(error.class.exit_status(), 2);
    }
    let error = sources(&[("window", "10s"), ("interval", "20s")], &[]).resolve().expect_err("too short");
    assert!(error.what.contains("a window of 10s is shorter than the interval of 20s"), "{error}");
}

#[test]
fn what_is_overruled_has_to_be_allowed_all_the_same() {
    let error = sources(&[("interval", "2s")], &[("interval", "x")]).resolve().expect_err("a bad variable");
    assert!(error.what.contains("HOSTSCOPE_INTERVAL"), "{error}");
}

#[test]
fn what_cannot_change_is_kept_and_told() {
    let running = AgentSettings::defaults().expect("defaults");
    let flags = [("listen", "127.0.0.1:1"), ("interval", "2s")];
    let mut changed = sources(&flags, &[]).resolve().expect("allowed");
    assert_eq!(changed.keep_what_stays(&running), ["listen"]);
    assert_eq!((changed.listen, changed.interval), (running.listen, seconds(2)));
    assert!(changed.keep_what_stays(&running).is_empty());
}

#[test]
fn the_readme_has_the_reference() {
    let readme = include_str!("../../../../README.md");
    assert!(readme.contains(&reference()), "put this into README.md:\n{}", reference());
}
