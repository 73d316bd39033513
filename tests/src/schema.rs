//! Whether a JSON value is what a schema says, for the few keywords that our own schema uses. A
//! keyword that is not known here fails, so that none is passed over. A library for the whole of
//! JSON Schema would be some forty crates, for one file.

use serde_json::Value;

/// What is wrong with `value`, each with its place.
pub fn mistakes(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(schema, schema, value, "$", &mut found);
    found
}

fn check(root: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let Some(keywords) = schema.as_object() else {
        return found.push(format!("{at}: the schema is no object"));
    };
    for (keyword, wanted) in keywords {
        match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" => {}
            "$ref" => {
                let pointer = wanted.as_str().and_then(|text| text.strip_prefix('#'));
                match pointer.and_then(|pointer| root.pointer(pointer)) {
                    Some(named) => check(root, named, value, at, found),
                    None => found.push(format!("{at}: {wanted} leads nowhere")),
                }
            }
            "type" => {
                let fits = match wanted {
                    Value::Array(types) => types.iter().any(|one| is(one, value)),
                    one => is(one, value),
                };
                if !fits {
                    found.push(format!("{at}: {value} is not {wanted}"));
                }
            }
            "const" | "enum" => {
                let one = std::slice::from_ref(wanted);
                if !wanted.as_array().map_or(one, Vec::as_slice).contains(value) {
                    found.push(format!("{at}: {value} is not {wanted}"));
                }
            }
            "required" => {
                let names = wanted.as_array().into_iter().flatten().filter_map(Value::as_str);
                let missing = names.filter(|name| value.is_object() && value.get(name).is_none());
                found.extend(missing.map(|name| format!("{at}: {name} is missing")));
            }
            "properties" => {
                for (name, inner) in value.as_object().into_iter().flatten() {
                    if let Some(schema) = wanted.get(name) {
                        check(root, schema, inner, &format!("{at}.{name}"), found);
                    }
                }
            }
            "additionalProperties" => {
                for name in value.as_object().into_iter().flat_map(|object| object.keys()) {
                    if *wanted == false && schema["properties"].get(name).is_none() {
                        found.push(format!("{at}: {name} is not described"));
                    }
                }
            }
            "items" => {
                for (nth, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, wanted, item, &format!("{at}[{nth}]"), found);
                }
            }
            other => found.push(format!("{at}: keyword {other} is not known here")),
        }
    }
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_kind_of_mistake_is_found() {
        let schema = json!({
            "type": "object", "additionalProperties": false, "required": ["a"],
            "properties": {
                "a": {"type": ["integer", "null"]},
                "b": {"type": "array", "items": {"$ref": "#/$defs/word"}},
            },
            "$defs": {"word": {"enum": ["x"]}},
        });
        assert!(mistakes(&schema, &json!({"a": 1, "b": ["x"]})).is_empty());
        for wrong in [
            json!([]),
            json!({}),
            json!({"a": "1"}),
            json!({"a": 1, "c": 1}),
            json!({"a": null, "b": ["y"]}),
        ] {
            assert_eq!(mistakes(&schema, &wrong).len(), 1, "{wrong}");
        }
        assert_eq!(mistakes(&json!({"maximum": 1}), &json!(2)).len(), 1, "an unknown keyword");
    }
}
