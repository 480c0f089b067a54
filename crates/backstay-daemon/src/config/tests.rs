use backstay_types::{Class, Classify};

use super::*;

const SMALLEST: &str = "name = \"east\"\nlisten = \"127.0.0.1:7443\"\n";

fn with(lines: &str) -> Result<SiteConfig, ConfigError> {
    SiteConfig::resolve(&format!("{SMALLEST}{lines}"), [], &Overrides::default())
}

fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn flags(pairs: &[(&str, &str)]) -> Overrides {
    let mut overrides = Overrides::default();
    pairs.iter().for_each(|(key, value)| overrides.set(*key, *value));
    overrides
}

#[test]
fn the_smallest_file_has_every_default() {
    let config = with("").expect("valid");
    assert_eq!(config, SiteConfig::default_for("east", "127.0.0.1:7443".parse().expect("an address")));
    assert_eq!(config.memory, ByteSize(256 << 20));
    assert_eq!(config.advertise, ["127.0.0.1:7443"]);
    assert_eq!(config.bandwidth_bytes_per_second(), None);
    // "Every address" is none that a peer could be told.
    let config = SiteConfig::resolve("name=\"a\"\nlisten=\"0.0.0.0:1\"", [], &Overrides::default());
    assert!(config.expect("valid").advertise.is_empty());
}

#[test]
fn every_key_is_read_and_printed_again() {
    let text = r#"
        name = "east"
        listen = "[::1]:7443"
        advertise = ["a.example:1", "[fd00::1]:65535"]
        [limits]
        memory = "1GiB"
        bandwidth = "50Mbit/s"
        [network]
        congestion = "cubic"
        [store]
        path = "/store"
        [admin]
        listen = "127.0.0.1:80"
        tokenFile = "/token \"x\""
        [log]
        format = "json"
        level = "debug"
        [retry]
        first = "1s"
        max = "1m"
        [witness]
        url = "https://[fd00::1]:7445#0101010101010101010101010101010101010101010101010101010101010101"
        tokenFile = "/witness-token"
        [replicas.shop]
        data = "/mnt/shop"
        [manifests]
        shop = "/mnt/objects"
    "#;
    let config = SiteConfig::resolve(text, [], &Overrides::default()).expect("valid");
    assert_eq!(config.bandwidth_bytes_per_second(), Some(6_250_000));
    let (plan, volume) = ("shop".parse().expect("a name"), "data".parse().expect("a name"));
    assert_eq!(config.replica(&plan, &volume), Some(Path::new("/mnt/shop")));
    assert_eq!(config.manifest_folder(&plan), Some(Path::new("/mnt/objects")));
    let defaults = SiteConfig::default_for("east", config.listen);
    for config in [config, defaults] {
        for printed in [config.to_toml(), config.to_effective_toml()] {
            let again = SiteConfig::resolve(&printed, [], &Overrides::default());
            assert_eq!(again.expect(&printed), config, "{printed}");
        }
        // Every key stands in the effective print, set or as a comment.
        for key in &keys::KEYS {
            let last = key.path.rsplit('.').next().expect("a key");
            assert!(config.to_effective_toml().contains(&format!("{last} = ")), "{}", key.path);
        }
    }
}

#[test]
fn a_commented_key_of_the_first_file_works_where_it_stands() {
    let printed = SiteConfig::default_for("east", "127.0.0.1:1".parse().expect("an address")).to_toml();
    for key in keys::KEYS.iter().filter(|key| key.path.contains('.')) {
        let (_, last) = key.path.split_once('.').expect("a table");
        let uncommented = printed.replace(&format!("# {last} = "), &format!("{last} = "));
        assert_ne!(printed, uncommented);
        match SiteConfig::resolve(&uncommented, [], &Overrides::default()) {
            // One that needs another beside it is understood all the same.
            Ok(_) | Err(ConfigError::Missing { .. }) => {}
            Err(error) => panic!("{}: {error}", key.path),
        }
    }
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let text = format!(
        "{SMALLEST}[limits]\nmemory = \"100MiB\"\nbandwidth = \"1Mbit/s\"\n[log]\nlevel = \"warn\"\n"
    );
    let environment = environment(&[
        ("BACKSTAY_LIMITS_MEMORY", "200MiB"),
        ("BACKSTAY_LOG_LEVEL", "debug"),
        ("BACKSTAY_ADVERTISE", "a:1, b:2"),
        ("BACKSTAY_SITE", "/var/lib/backstay"),
        ("HOME", "/root"),
    ]);
    let flags = flags(&[("log.level", "error"), ("log.level", "trace"), ("replicas.shop.data", "/mnt")]);
    let config = SiteConfig::resolve(&text, environment, &flags).expect("valid");
    assert_eq!(config.bandwidth_bytes_per_second(), Some(125_000));
    assert_eq!(config.memory, ByteSize(200 << 20));
    assert_eq!(config.log_level, LogLevel::Trace);
    assert_eq!(config.advertise, ["a:1", "b:2"]);
    assert_eq!(config.replicas.len(), 1);
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_known_one() {
    for (lines, key, near) in [
        ("[limits]\nmemroy = \"1GiB\"", "limits.memroy", Some("limits.memory")),
        ("[limitz]\nmemory = \"1GiB\"", "limitz", Some("limits")),
        ("lissten = \"x\"", "lissten", Some("listen")),
        ("[replica.shop]\ndata = \"/x\"", "replica", Some("replicas")),
        ("[admin]\ntokenfile = \"/x\"", "admin.tokenfile", Some("admin.tokenFile")),
        ("[admin]\ntoken = 5", "admin.token", Some("admin.tokenFile")),
        ("memory = \"1GiB\"", "memory", Some("limits.memory")),
        ("bandwith = \"1MB/s\"", "bandwith", Some("limits.bandwidth")),
        ("[limits.memory]\nx = \"1\"", "limits.memory", Some("limits.memory")),
        ("[replicas]\nshop = \"/x\"", "replicas.shop", Some("replicas.PLAN.VOLUME")),
        ("[quite_something_else]", "quite_something_else", None),
    ] {
        match with(lines) {
            Err(ConfigError::UnknownKey { origin: Origin::File, key: found, nearest }) => {
                assert_eq!(found, key);
                assert_eq!(nearest.as_deref(), near, "{key}");
            }
            other => panic!("{lines}: {other:?}"),
        }
    }
}

#[test]
fn an_unknown_variable_is_named_but_not_those_of_kubernetes() {
    let read = |name: &str| SiteConfig::resolve(SMALLEST, environment(&[(name, "1")]), &Overrides::default());
    let error = read("BACKSTAY_LIMITS_MEMROY").expect_err("unknown");
    assert_eq!(error.hint().as_deref(), Some("did you mean `BACKSTAY_LIMITS_MEMORY`?"));
    for good in [
        "BACKSTAY_SERVICE_HOST",
        "BACKSTAY_PORT_7443_UDP_ADDR",
        "BACKSTAY_ADMIN_SERVICE_HOST",
        "BACKSTAY_ADMIN_PORT",
        "BACKSTAY_SEED",
        "OTHER_LIMITS_MEMROY",
    ] {
        assert!(read(good).is_ok(), "{good}");
    }
}

#[test]
fn values_at_their_bounds() {
    let labels = "a".repeat(63);
    for (good, key, value) in [
        (true, "limits.memory", "64MiB"),
        (false, "limits.memory", "65535KiB"),
        (false, "limits.memory", "lots"),
        (false, "limits.memory", ""),
        (true, "limits.bandwidth", "8kbit/s"),
        (true, "limits.bandwidth", "1kB/s"),
        (false, "limits.bandwidth", "7999bit/s"),
        (false, "limits.bandwidth", "0bit/s"),
        (true, "name", labels.as_str()),
        (false, "name", ""),
        (false, "name", "East"),
        (true, "listen", "[::]:0"),
        (false, "listen", "7443"),
        (false, "listen", "localhost:7443"),
        (true, "advertise", "a:1,b:2,c:3,d:4,e:5,f:6,g:7,h:8"),
        (false, "advertise", "a:1,b:2,c:3,d:4,e:5,f:6,g:7,h:8,i:9"),
        (false, "advertise", "a:0"),
        (false, "advertise", "a:65536"),
        (false, "advertise", ":1"),
        (false, "advertise", "https://a:1"),
        (true, "network.congestion", "newreno"),
        (false, "network.congestion", "reno"),
        (false, "store.path", "relative"),
        (false, "log.format", "xml"),
        (false, "log.level", "all"),
        (true, "retry.first", "100ms"),
        (false, "retry.first", "99ms"),
        (true, "retry.first", "5m"),
        (false, "retry.first", "301s"),
        (false, "replicas.shop.data", "relative"),
        (false, "replicas.shop", "/x"),
        (false, "replicas.Shop.data", "/x"),
        (false, "manifests.shop", "x"),
        (true, "witness.url", "file:///mnt/shared"),
        (false, "witness.url", "file://relative"),
        (false, "witness.url", "http://a:1#00"),
        (false, "witness.url", "https://a:1"),
        (false, "witness.url", "https://a#0101010101010101010101010101010101010101010101010101010101010101"),
        (false, "witness.url", "kubernetes:Not_a_namespace"),
        (false, "witness.tokenFile", "/alone"),
    ] {
        let result = SiteConfig::resolve(SMALLEST, [], &flags(&[(key, value)]));
        assert_eq!(result.is_ok(), good, "{key} = {value:?}: {result:?}");
        if let Err(error) = result {
            assert_eq!(error.class(), Class::Invalid);
            assert!(error.hint().is_some());
        }
    }
}

#[test]
fn errors_say_where_and_what() {
    let text = with("[limits]\nmemory = \"lots\"").expect_err("invalid").to_string();
    assert!(text.starts_with("site.toml: `limits.memory`: expected a size"), "{text}");
    assert!(text.ends_with("found \"lots\""), "{text}");
    let text = with("[limits]\nmemory = 5").expect_err("invalid").to_string();
    assert!(text.ends_with("found 5"), "{text}");
    let text = with("[log]\nlevel = [\"info\"]").expect_err("invalid").to_string();
    assert!(text.ends_with("found [\"info\"]"), "{text}");
    let text = with("[limits\n").expect_err("invalid").to_string();
    assert!(text.contains("line 3") && !text.contains('\n'), "{text}");
    let missing = SiteConfig::resolve("listen = \"127.0.0.1:1\"", [], &Overrides::default());
    assert!(matches!(missing, Err(ConfigError::Missing { key: "name", .. })));
    let token = with("[admin]\nlisten = \"127.0.0.1:1\"");
    assert!(matches!(token, Err(ConfigError::Missing { key: "admin.tokenFile", .. })));
}

#[test]
fn a_folder_without_a_file_is_no_site() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = SiteConfig::load(folder.path(), &Overrides::default()).expect_err("nothing there");
    assert_eq!(error.class(), Class::NotFound);
    assert!(error.hint().is_some_and(|hint| hint.contains("backstay init --site")));
}

#[test]
fn the_sample_in_the_repository_is_what_init_writes() {
    let sample = include_str!("../../../../config/site.toml");
    let listen = DEFAULT_LISTEN.parse().expect("an address");
    assert_eq!(SiteConfig::default_for("east", listen).to_toml(), sample);
}

#[test]
fn holds_are_read_and_printed_again() {
    let text = "[hold.shop]\nunits = [\"db.service\"]\n[hold.shop.commands]\nhold = [\"stop\", \"a \\\"b\\\"\"]\n\
                release = [\"start\"]\ntimeout = \"2m\"\n[hold.other]\nnothing = true\n";
    let config = with(text).expect("valid");
    assert_eq!(config.holds.len(), 2);
    for printed in [config.to_toml(), config.to_effective_toml()] {
        let again = SiteConfig::resolve(&printed, [], &Overrides::default()).expect(&printed);
        assert_eq!(again, config);
    }
    for (bad, word) in [
        ("[hold.shop]\n", "nothing: true"),
        ("[hold.shop]\nunit = [\"db.service\"]\n", "unit"),
        ("[hold.shop]\nunits = [\"db\"]\n", "postgresql.service"),
        ("[hold]\nunits = [\"db.service\"]\n", "hold.units"),
    ] {
        let error = with(bad).expect_err(bad);
        assert!(error.class() == Class::Invalid && error.to_string().contains(word), "{error}");
    }
}
