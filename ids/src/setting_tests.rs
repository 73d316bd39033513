//! For any setting that a controller may have: one entry more, and nothing else different.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn us(direction: Direction) -> Exemption {
    Exemption { address: "192.168.10.20".parse().expect("an address"), direction }
}

fn setting(value: &Value) -> Setting {
    let answer = json!({"meta": {"rc": "ok"}, "data": [value]});
    Setting::from_answer(&answer).expect("a setting")
}

/// What a controller makes of the write: a nested object is replaced.
fn written(before: &Value, exemption: &Exemption) -> Value {
    let mut after = before.clone();
    after["suppression"] = setting(before).suppression_with(exemption);
    after
}

fn entry() -> impl Strategy<Value = Value> {
    let direction = prop::sample::select(vec!["src", "dest", "both"]);
    let mode = prop::sample::select(vec!["ip", "subnet", "network"]);
    (direction, mode, "[0-9]{1,2}\\.0\\.0\\.1", any::<bool>()).prop_map(
        |(direction, mode, value, extra)| {
            let mut entry = json!({"direction": direction, "mode": mode, "value": value});
            if extra {
                entry["unknown_to_us"] = json!({"deep": [1, null]});
            }
            entry
        },
    )
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,4}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

prop_compose! {
    fn any_setting()(
        mut more in prop::collection::btree_map("x_[a-z]{1,5}", any_json(), 0..6),
        whitelist in prop::option::of(prop::collection::vec(entry(), 0..5)),
        alerts in prop::option::of(prop::collection::vec(any_json(), 0..3)),
        suppression in any::<bool>(),
        flags in any::<[bool; 4]>(),
    ) -> Value {
        let names = ["honeypot_enabled", "memory_optimized", "restrict_torrents",
            "content_filtering_blocking_page_enabled"];
        more.extend(names.iter().zip(flags).map(|(name, on)| ((*name).to_owned(), on.into())));
        let mut setting = Value::Object(more.into_iter().collect());
        setting["key"] = "ips".into();
        setting["ips_mode"] = "ips".into();
        if suppression {
            setting["suppression"] = json!({"unknown_to_us": 1});
            if let Some(list) = whitelist { setting["suppression"]["whitelist"] = list.into(); }
            if let Some(list) = alerts { setting["suppression"]["alerts"] = list.into(); }
        }
        setting
    }
}

proptest! {
    #[test]
    fn one_entry_is_added_and_nothing_else_differs(before in any_setting(), both in any::<bool>()) {
        let wanted = us(if both { Direction::Both } else { Direction::Source });
        let after = written(&before, &wanted);
        prop_assert!(!setting(&before).has(&wanted) && setting(&after).has(&wanted));
        prop_assert_eq!(added(&setting(&before), &setting(&after)), vec![wanted.entry()]);
        prop_assert_eq!(
            differences(&setting(&before), &setting(&after), &wanted),
            Vec::<String>::new()
        );
        // Without the entry it is what it was, to the last field.
        let mut without = after;
        let list = without["suppression"]["whitelist"].as_array_mut().expect("a list");
        list.pop();
        let emptied = list.is_empty();
        if emptied && before.pointer("/suppression/whitelist").is_none() {
            without["suppression"].as_object_mut().expect("an object").remove("whitelist");
        }
        if before.get("suppression").is_none() {
            without.as_object_mut().expect("an object").remove("suppression");
        }
        prop_assert_eq!(without, before);
    }

    #[test]
    fn any_other_change_is_told(before in any_setting(), nth in any::<prop::sample::Index>()) {
        let wanted = us(Direction::Source);
        let mut after = written(&before, &wanted);
        let keys: Vec<String> =
            before.as_object().expect("an object").keys().filter(|key| *key != "key").cloned().collect();
        let key = nth.get(&keys);
        match key.as_str() {
            "suppression" => after["suppression"]["unknown_to_us"] = json!("flipped"),
            "ips_mode" => after[key] = json!("disabled"),
            _ => after[key] = json!({"flipped": after[key]}),
        }
        let told = differences(&setting(&before), &setting(&after), &wanted);
        prop_assert!(told.iter().any(|line| line.starts_with(key.as_str())), "{key}: {told:?}");
    }

    #[test]
    fn a_lost_entry_is_told(before in any_setting(), lost in entry()) {
        let wanted = us(Direction::Source);
        let mut before = before;
        if before.get("suppression").is_none() { before["suppression"] = json!({}); }
        before["suppression"]["whitelist"] = json!([lost]);
        let mut after = written(&before, &wanted);
        after["suppression"]["whitelist"] = json!([wanted.entry()]);
        let told = differences(&setting(&before), &setting(&after), &wanted);
        prop_assert_eq!(told, vec![format!("suppression.whitelist: lost {lost}")]);
    }

    #[test]
    fn no_answer_panics(answer in any_json(), one in any_json()) {
        let _ = Setting::from_answer(&answer);
        let _ = Setting::from_answer(&json!({"data": [one]}));
        let whole = json!({"data": [{"key": "ips", "ips_mode": "ips", "suppression": one}]});
        if let Ok(setting) = Setting::from_answer(&whole) {
            let _ = setting.suppression_with(&us(Direction::Source));
        }
    }
}

#[test]
fn what_is_present_and_what_is_not() {
    let with = |entry: Value| {
        setting(&json!({"key": "ips", "ips_mode": "ips", "suppression": {"whitelist": [entry]}}))
    };
    let entry = |direction: &str, mode: &str, value: &str| {
        with(json!({"direction": direction, "mode": mode, "value": value}))
    };
    let (source, both) = (us(Direction::Source), us(Direction::Both));
    for (setting, as_source, as_both) in [
        (entry("src", "ip", "192.168.10.20"), true, false),
        (entry("both", "ip", "192.168.10.20"), true, true),
        (entry("dest", "ip", "192.168.10.20"), false, false),
        // What the controller makes of it is not known, so it does not count.
        (entry("dst", "ip", "192.168.10.20"), false, false),
        (entry("src", "ip", "192.168.10.2"), false, false),
        (entry("src", "subnet", "192.168.10.20"), false, false),
        (entry("src", "network", "192.168.10.20"), false, false),
        (with(json!({})), false, false),
    ] {
        assert_eq!((setting.has(&source), setting.has(&both)), (as_source, as_both), "{setting:?}");
    }
}

#[test]
fn an_answer_without_a_setting_is_never_an_absent_exemption() {
    let told =
        |data: Value| Setting::from_answer(&data).map(drop).expect_err("no setting").to_string();
    assert!(told(json!({"data": []})).contains("empty list"));
    for (answer, shape) in [
        (json!([]), "no list `data`"),
        (json!({"data": {}}), "no list `data`"),
        (json!({"data": [1]}), "holds no object"),
        (json!({"data": [{"key": "mgmt"}]}), "not `ips`"),
        (json!({"data": [{"key": "ips"}, {"key": "ips"}]}), "more than one"),
        (json!({"data": [{"key": "ips"}]}), "no `ips_mode`"),
        (json!({"data": [{"key": "ips", "ips_mode": "ips", "suppression": []}]}), "no object"),
        (
            json!({"data": [{"key": "ips", "ips_mode": "ips", "suppression": {"whitelist": {}}}]}),
            "no list of entries",
        ),
    ] {
        assert!(told(answer.clone()).contains(shape), "{answer}");
    }
}

#[test]
fn s10_values_that_are_not_known_are_not_shown() {
    let before =
        json!({"key": "ips", "ips_mode": "ips", "some_token": "hush", "restrict_torrents": true});
    let mut after = written(&before, &us(Direction::Source));
    after["some_token"] = "whisper".into();
    after["restrict_torrents"] = false.into();
    let told = differences(&setting(&before), &setting(&after), &us(Direction::Source));
    assert_eq!(
        told,
        ["restrict_torrents: true -> false", "some_token: changed (values not shown)"]
    );
}
