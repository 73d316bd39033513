//! What the controller takes: the names and the kinds of the documented IPS setting. Fields that are
//! not documented are kept as they come.

use serde_json::{Map, Value};

use super::Mode;

const INVALID: &str = "api.err.InvalidPayload";

/// The setting after a write: a partial object is merged at its top, and what is nested is replaced.
pub fn merged(setting: &Value, write: &Value, mode: &Mode) -> Result<Value, &'static str> {
    let write = write.as_object().ok_or(INVALID)?;
    if !(valid(write)) {
        return Err(INVALID);
    }
    let mut result = match mode {
        Mode::ReplacesAll => only(setting, &["_id", "site_id", "key", "ips_mode"]),
        _ => setting.as_object().cloned().ok_or(INVALID)?,
    };
    if *mode != Mode::Forgets {
        result.extend(write.clone());
    }
    Ok(Value::Object(result))
}

fn only(setting: &Value, keys: &[&str]) -> Map<String, Value> {
    let kept = keys.iter().filter_map(|key| Some(((*key).to_owned(), setting.get(key)?.clone())));
    kept.collect()
}

fn valid(write: &Map<String, Value>) -> bool {
    write.iter().all(|(key, value)| match key.as_str() {
        "key" => value == "ips",
        "ips_mode" => one_of(value, &["ids", "ips", "ipsInline", "disabled"]),
        "advanced_filtering_preference" => one_of(value, &["", "manual", "disabled"]),
        "enabled_networks" | "enabled_categories" => list(value, Value::is_string),
        "honeypot" => list(value, |one| {
            text(one, "ip_address")
                && text(one, "network_id")
                && field(one, "version", &["v4", "v6"])
        }),
        "honeypot_enabled"
        | "memory_optimized"
        | "restrict_torrents"
        | "content_filtering_blocking_page_enabled" => value.is_boolean(),
        "suppression" => suppression(value),
        _ => true,
    })
}

fn suppression(value: &Value) -> bool {
    let Some(fields) = value.as_object() else { return false };
    fields.iter().all(|(key, value)| match key.as_str() {
        "whitelist" => list(value, entry),
        "alerts" => list(value, alert),
        _ => true,
    })
}

fn entry(one: &Value) -> bool {
    field(one, "direction", &["both", "src", "dest"])
        && field(one, "mode", &["ip", "subnet", "network"])
        && text(one, "value")
}

fn alert(one: &Value) -> bool {
    let number = |key| {
        let value = one.get(key);
        value.is_some_and(|value| {
            let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
            value.is_u64() || value.as_str().is_some_and(digits)
        })
    };
    number("gid")
        && number("id")
        && text(one, "category")
        && text(one, "signature")
        && field(one, "type", &["all", "track"])
        && one.get("tracking").is_none_or(|tracking| list(tracking, entry))
}

fn list(value: &Value, each: impl Fn(&Value) -> bool) -> bool {
    value.as_array().is_some_and(|items| items.iter().all(each))
}

fn text(value: &Value, key: &str) -> bool {
    value.get(key).is_some_and(Value::is_string)
}

fn field(value: &Value, key: &str, known: &[&str]) -> bool {
    value.get(key).is_some_and(|value| one_of(value, known))
}

fn one_of(value: &Value, known: &[&str]) -> bool {
    value.as_str().is_some_and(|text| known.contains(&text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::used_setting;
    use super::*;

    #[test]
    fn it_refuses_what_the_real_one_refuses_and_replaces_what_is_nested() {
        let setting = used_setting();
        let write = |suppression: Value| {
            merged(&setting, &json!({"suppression": suppression}), &Mode::Well)
        };
        let entry = |direction: &str, mode: &str, value: Value| json!({"whitelist": [{"direction": direction, "mode": mode, "value": value}]});
        let good = write(entry("src", "ip", "192.168.10.20".into())).expect("a good entry");
        assert_eq!(good["suppression"].get("alerts"), None, "what is nested is replaced");
        assert_eq!(good["restrict_torrents"], setting["restrict_torrents"]);
        for bad in [
            entry("dst", "ip", "192.168.10.20".into()),
            entry("src", "host", "192.168.10.20".into()),
            entry("src", "ip", 7.into()),
            json!({"whitelist": {}}),
            json!([]),
            json!({"alerts": [{"gid": "one"}]}),
        ] {
            assert_eq!(write(bad.clone()), Err(INVALID), "{bad}");
        }
        let whole = merged(&setting, &setting, &Mode::Well);
        assert_eq!(whole, Ok(setting.clone()), "a used setting is a good one");
        assert_eq!(merged(&setting, &json!({"ips_mode": "off"}), &Mode::Well), Err(INVALID));
        assert_eq!(
            merged(&setting, &json!({"restrict_torrents": "no"}), &Mode::Well),
            Err(INVALID)
        );
    }
}
