//! What keeps a checkpoint from being this run's.

use std::collections::BTreeMap;

use candle_core::Tensor;
use safetensors::tensor::Metadata;
use serde_json::Value;

use crate::config::TrainConfig;
use crate::error::{Error, Result};

/// Fields of the configuration that may change between a checkpoint and the run that goes on from it: they decide when
/// the run ends, not what a step does.
const ALLOWED: [&str; 2] = ["generator_steps", "stop"];

/// The fields that say which variant of an enum it is.
const TAGS: [&str; 3] = ["optimizer", "strategy", "schedule"];

/// More of them say no more.
const MOST: usize = 12;

/// The settings in the form that is written and compared.
pub(crate) fn config_to_json(config: &TrainConfig) -> Result<Value> {
    let to_json = || {
        // Through text, so that numbers are rounded as those of a file are.
        serde_json::from_str(&serde_json::to_string(config)?)
    };
    to_json().map_err(|error: serde_json::Error| {
        Error::config("the configuration", error, "one that can be written as JSON")
    })
}

/// The fields in which these settings differ from a checkpoint's, but for those that may.
pub(crate) fn compare_config(ours: &Value, theirs: &Value) -> Vec<String> {
    // A field that an older version did not know has its default; what this version does not know is a difference.
    let parsed = serde_json::from_value::<TrainConfig>(theirs.clone());
    let filled = parsed.ok().and_then(|config| config_to_json(&config).ok());
    let theirs = filled.unwrap_or_else(|| theirs.clone());
    let mut differences = Vec::new();
    compare("", ours, &theirs, &mut differences);
    shorten(differences)
}

fn compare(name: &str, ours: &Value, theirs: &Value, differences: &mut Vec<String>) {
    if let (Value::Object(ours), Value::Object(theirs)) = (ours, theirs) {
        let kind = TAGS.iter().find(|tag| {
            let of = |map: &serde_json::Map<String, Value>| map.get(**tag).cloned();
            of(ours).is_some() && of(theirs).is_some() && of(ours) != of(theirs)
        });
        // The fields of another strategy are not compared with those of this one.
        let mut fields: Vec<&String> = (ours.keys().chain(theirs.keys()))
            .filter(|field| kind.is_none_or(|kind| field.as_str() == *kind))
            .collect();
        fields.sort();
        fields.dedup();
        for field in fields {
            if name.is_empty() && ALLOWED.contains(&field.as_str()) {
                continue;
            }
            let name = if name.is_empty() { field.clone() } else { format!("{name}.{field}") };
            let value = |of: &serde_json::Map<String, Value>| of.get(field).cloned();
            compare(
                &name,
                &value(ours).unwrap_or(Value::Null),
                &value(theirs).unwrap_or(Value::Null),
                differences,
            );
        }
    } else if !same(ours, theirs) {
        let name = if name.is_empty() { "the configuration" } else { name };
        differences.push(format!("{name} is {}, in the checkpoint {}", shown(ours), shown(theirs)));
    }
}

/// Equal, or numbers that differ by no more than what reading them from text may: their last digits.
fn same(ours: &Value, theirs: &Value) -> bool {
    let near = |(a, b): (f64, f64)| (a - b).abs() <= 4.0 * f64::EPSILON * a.abs();
    let fractions = ours.is_f64() && theirs.is_f64();
    ours == theirs || (fractions && ours.as_f64().zip(theirs.as_f64()).is_some_and(near))
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "absent".into(),
        other => {
            let text = other.to_string();
            match text.char_indices().nth(200) {
                Some((end, _)) => format!("{}...", &text[..end]),
                None => text,
            }
        }
    }
}

/// The tensors that a file lacks, has too many, or has in another shape or type.
pub(crate) fn compare_layout(
    ours: &BTreeMap<String, Tensor>,
    theirs: &Metadata,
    skip: impl Fn(&str) -> bool,
) -> Vec<String> {
    let mut differences = Vec::new();
    for (name, tensor) in ours {
        let kind = safetensors::View::dtype(tensor);
        match theirs.info(name) {
            None => differences.push(format!("{name} is missing from the checkpoint")),
            Some(info) if info.dtype != kind || info.shape != tensor.dims() => {
                differences.push(format!(
                    "{name} is {:?} of {kind}, in the checkpoint {:?} of {}",
                    tensor.dims(),
                    info.shape,
                    info.dtype
                ));
            }
            Some(_) => {}
        }
    }
    let mut unexpected: Vec<String> = (theirs.tensors().into_keys())
        .filter(|name| !ours.contains_key(name) && !skip(name))
        .map(|name| format!("{} is in the checkpoint and not in this run", shown(&name.into())))
        .collect();
    unexpected.sort();
    differences.extend(unexpected);
    shorten(differences)
}

fn shorten(mut differences: Vec<String>) -> Vec<String> {
    if let Some(more) = differences.len().checked_sub(MOST).filter(|&more| more > 0) {
        differences.truncate(MOST);
        differences.push(format!("and {more} more"));
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lipschitz;

    #[test]
    fn every_field_counts_but_those_that_may_change() {
        let ours = TrainConfig::wgan_gp();
        let differences = |theirs: &TrainConfig| {
            compare_config(&config_to_json(&ours).unwrap(), &config_to_json(theirs).unwrap())
        };
        assert!(differences(&ours).is_empty());
        assert!(differences(&TrainConfig { generator_steps: 1, ..ours.clone() }).is_empty());
        assert_eq!(
            differences(&TrainConfig { seed: 1, batch_size: 5, ..ours.clone() }),
            ["batch_size is 64, in the checkpoint 5", "seed is 0, in the checkpoint 1"]
        );
        let clip = TrainConfig { lipschitz: Lipschitz::Clip { c: 0.5 }, ..ours.clone() };
        assert_eq!(
            differences(&clip),
            [r#"lipschitz.strategy is "gradient_penalty", in the checkpoint "clip""#]
        );
        let lambda =
            Lipschitz::GradientPenalty { lambda: 5.0, target: 1.0, sides: Default::default() };
        let lambda = TrainConfig { lipschitz: lambda, ..ours.clone() };
        assert_eq!(differences(&lambda), ["lipschitz.lambda is 10.0, in the checkpoint 5.0"]);
    }

    #[test]
    fn an_older_configuration_has_defaults_and_a_newer_one_differs() {
        let ours = config_to_json(&TrainConfig::wgan()).unwrap();
        assert!(compare_config(&ours, &serde_json::json!({})).is_empty());
        let newer = serde_json::json!({"tomorrow": [1, 2]});
        let text = compare_config(&ours, &newer).join("; ");
        assert!(text.contains("tomorrow is absent, in the checkpoint [1,2]"), "{text}");
        assert!(!compare_config(&ours, &serde_json::json!("x".repeat(1000))).is_empty());
    }
}
