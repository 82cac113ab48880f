//! What the JSON of a result leaves out: parts without a value, and parts that are equal to another one.
//!
//! In memory a result is complete. This is the only place that knows what is written of it, and how to read that again.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeMap};
use serde_json::Value;

use super::vb::VbMetrics;
use crate::record::Object;

/// The key that says which parts were left out, and which parts they are equal to.
const SAME: &str = "same";

/// The part of `vb` that counts from the schedule, and the one that it is compared with.
const SCHEDULE: (&str, &str) = ("from_schedule", "from_start");

/// Parts of `vb` that are often equal to another one: the path of each, and of the other, which stays.
const TWINS: [(&str, &str); 5] = [
    SCHEDULE,
    ("itl_per_token_ms", "itl_per_chunk_ms"),
    ("ttft_answer_ms", "from_start.ttft_ms"),
    ("client_queue_time_ms", "schedule_lag_ms"),
    ("goodput.from_schedule", "goodput.from_start"),
];

/// Writes `vb` without what says nothing.
pub fn serialize<S: Serializer>(vb: &VbMetrics, out: S) -> Result<S::Ok, S::Error> {
    let value = serde_json::to_value(vb).map_err(serde::ser::Error::custom)?;
    let Value::Object(mut keys) = value else { return value.serialize(out) };
    // It is the record of another program, whole.
    keys.iter_mut().filter(|(key, _)| *key != "selftest").for_each(|(_, value)| prune(value));
    keys.retain(|_, value| !is_empty(value));
    let same = remove_twins(&mut keys, vb.is_on_schedule());
    if !same.is_empty() {
        keys.insert(SAME.to_owned(), same.into());
    }
    let mut map = out.serialize_map(None)?;
    for (key, value) in &keys {
        // With all nine decimals, which a number of `serde_json` does not have.
        match (key.as_str(), vb.start_time, vb.end_time) {
            ("start_time", Some(time), _) | ("end_time", _, Some(time)) => map.serialize_entry(key, &time)?,
            _ => map.serialize_entry(key, value)?,
        }
    }
    map.end()
}

/// Reads `vb` with the parts that were left out.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<VbMetrics, D::Error> {
    let mut keys = Object::deserialize(from)?;
    if let Some(Value::Object(same)) = keys.remove(SAME) {
        for (part, twin) in TWINS {
            if same.get(part).and_then(Value::as_str) == Some(twin)
                && let Some(value) = part_at(&mut keys, twin).map(|(parent, key)| parent.get(key).cloned())
                && let Some((parent, key)) = part_at(&mut keys, part)
            {
                parent.insert(key.to_owned(), value.unwrap_or_default());
            }
        }
    }
    serde_json::from_value(Value::Object(keys)).map_err(de::Error::custom)
}

/// The part of a result's `vb` at a path like `from_start.ttft_ms`, wherever it was written; `None` if it was not measured.
#[must_use]
pub fn read_part<'a>(vb: &'a Value, path: &str) -> Option<&'a Value> {
    let at = |path: &str| path.split('.').try_fold(vb, |value, key| value.get(key));
    at(path).or_else(|| {
        let twins = vb.get(SAME)?.as_object()?;
        // `from_schedule.ttft_ms` is in `from_schedule`.
        twins.iter().find_map(|(part, twin)| {
            let rest = path.strip_prefix(part.as_str()).filter(|rest| rest.is_empty() || rest.starts_with('.'))?;
            at(&(twin.as_str()?.to_owned() + rest))
        })
    })
}

/// The object that a part is in, and the part's own key.
fn part_at<'a, 'p>(keys: &'a mut Object, path: &'p str) -> Option<(&'a mut Object, &'p str)> {
    match path.split_once('.') {
        None => Some((keys, path)),
        Some((parent, key)) => Some((keys.get_mut(parent)?.as_object_mut()?, key)),
    }
}

/// Removes the parts that are equal to another one. Returns their paths, each with the path of the other one.
fn remove_twins(keys: &mut Object, is_on_schedule: bool) -> Object {
    let mut same = Object::new();
    for (part, twin) in TWINS {
        let value = |keys: &mut Object, path| part_at(keys, path).and_then(|(parent, key)| parent.get(key).cloned());
        let (one, other) = (value(keys, part), value(keys, twin));
        let assumed = is_on_schedule && (part, twin) == SCHEDULE && other.is_some();
        if one.is_some() && (one == other || assumed) {
            if let Some((parent, key)) = part_at(keys, part) {
                parent.shift_remove(key);
            }
            same.insert(part.to_owned(), twin.into());
        }
    }
    same
}

/// Removes nulls, empty lists and objects, intervals without an end, and distributions without values. Elements of lists keep their places.
fn prune(value: &mut Value) {
    match value {
        Value::Object(keys) => {
            keys.values_mut().for_each(prune);
            keys.retain(|_, value| !is_empty(value));
        }
        Value::Array(elements) => elements.iter_mut().for_each(prune),
        _ => {}
    }
}

/// Whether a pruned value says nothing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(elements) => elements.iter().all(Value::is_null),
        Value::Object(keys) => {
            let is_distribution = keys.get("n").and_then(Value::as_u64) == Some(0);
            keys.is_empty() || is_distribution && !keys.contains_key("mean")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pruned(mut value: Value) -> Value {
        prune(&mut value);
        value
    }

    #[test]
    fn what_says_nothing_is_left_out() {
        let full = json!({
            "n": 3, "mean": 1.5, "p99": null, "intervals": {"mean": [1.0, 2.0], "p90": [null, null], "p99": [1.0, null]},
            "none": {"n": 0, "mean": null, "max": null, "histogram": {"hdr": "x", "evidence": null}},
            "list": [], "nested": {"empty": {"null": null}}, "zero": 0, "false": false, "texts": ["a"],
            "groups": [{"key": "", "tpot_ms": {"n": 0, "mean": null}}],
        });
        let want = json!({
            "n": 3, "mean": 1.5, "intervals": {"mean": [1.0, 2.0], "p99": [1.0, null]},
            "zero": 0, "false": false, "texts": ["a"], "groups": [{"key": ""}],
        });
        assert_eq!(pruned(full), want);
    }

    #[test]
    fn an_equal_part_is_named_and_found() {
        let summary = json!({"n": 2, "mean": 5.0});
        let mut keys = json!({
            "from_start": {"ttft_ms": summary, "e2el_ms": {"n": 1}}, "from_schedule": {"ttft_ms": {"n": 2, "mean": 6.0}},
            "ttft_answer_ms": summary, "itl_per_token_ms": summary, "goodput": {"from_start": 1, "from_schedule": 1},
        });
        let whole = keys.clone();
        let same = remove_twins(keys.as_object_mut().unwrap(), false);
        assert_eq!(
            Value::Object(same.clone()),
            json!({"ttft_answer_ms": "from_start.ttft_ms", "goodput.from_schedule": "goodput.from_start"})
        );
        assert!(keys.get("ttft_answer_ms").is_none() && keys["itl_per_token_ms"] == summary);
        keys["same"] = same.into();
        for path in ["ttft_answer_ms", "ttft_answer_ms.mean", "goodput.from_schedule", "from_schedule.ttft_ms"] {
            let at = |path: &str| path.split('.').fold(&whole, |value, key| &value[key]).clone();
            assert_eq!(read_part(&keys, path), Some(&at(path)), "{path}");
        }
        assert_eq!((read_part(&keys, "ttft_answer_ms.p1"), read_part(&keys, "ttft")), (None, None));
    }

    #[test]
    fn a_loop_without_waits_has_one_time_base() {
        let mut keys = json!({"from_start": {"e2el_ms": {"n": 1, "mean": 5.0}}, "from_schedule": {"e2el_ms": {"n": 1, "mean": 5.001}}});
        let keys = keys.as_object_mut().unwrap();
        assert!(remove_twins(keys, false).is_empty());
        assert_eq!(remove_twins(keys, true)["from_schedule"], "from_start");
        let none = json!({"itl_per_chunk_ms": {"n": 1}});
        assert!(
            remove_twins(none.clone().as_object_mut().unwrap(), true).is_empty(),
            "what is not there is equal to nothing"
        );
    }
}
