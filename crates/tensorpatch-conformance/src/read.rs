//! A directory of vectors as a stranger reads it: from its manifest alone.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tensorpatch_reference::{LeafHash, Tensor, state_digest, tagged};
use tensorpatch_testkit::{Model, Verdict};

use crate::state::{Bytes, Edit, Rule, State};

/// Reads `manifest.json` in a directory, makes its states by their rules, and runs both decoders over its
/// vectors. Returns how many there are, and what is wrong.
///
/// # Errors
/// If the manifest is not one.
pub fn check_directory(directory: &Path) -> Result<(usize, Vec<String>)> {
    let path = directory.join("manifest.json");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let manifest: Value = serde_json::from_str(&text)?;
    let mut faults = Vec::new();
    let mut states: Vec<State> = Vec::new();
    for entry in array(&manifest["states"])? {
        let state = state(entry, &states)?;
        faults.extend(faults_of_state(entry, &state)?);
        states.push(state);
    }
    let states: BTreeMap<&str, Model> = states.iter().map(|state| (state.id, state.model())).collect();
    let vectors = array(&manifest["vectors"])?;
    for entry in vectors {
        faults.extend(faults_of_vector(directory, entry, &states)?);
    }
    Ok((vectors.len(), faults))
}

fn faults_of_state(entry: &Value, state: &State) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for (entry, tensor) in array(&entry["tensors"])?.iter().zip(&state.tensors) {
        if text(&entry["blake3"])? != blake3::hash(&tensor.bytes).to_hex().as_str() {
            faults.push(format!("state {}: the bytes of {:?} are others", state.id, tensor.name));
        }
    }
    for (digest, hash) in array(&entry["digests"])?.iter().zip([LeafHash::Xxh3, LeafHash::Blake3]) {
        if text(digest)? != tagged(hash, &state_digest(hash, &state.tensors)) {
            faults.push(format!("state {}: another state digest", state.id));
        }
    }
    Ok(faults)
}

fn faults_of_vector(directory: &Path, entry: &Value, states: &BTreeMap<&str, Model>) -> Result<Vec<String>> {
    let known = |id: &Value| -> Result<&Model> {
        let id = text(id)?;
        states.get(id).with_context(|| format!("no state {id}"))
    };
    let id = text(&entry["id"])?;
    let file = std::fs::read(directory.join(text(&entry["file"])?)).with_context(|| id.to_owned())?;
    let base = if entry["base"].is_null() { None } else { Some(known(&entry["base"])?) };
    let mut faults = Vec::new();
    if text(&entry["blake3"])? != blake3::hash(&file).to_hex().as_str() {
        faults.push(format!("{id}: the file is another"));
    }
    for verdict in [Verdict::of_reference(&file, base), Verdict::of_fast(&file, base)] {
        let right = match &verdict {
            Verdict::Target { state, .. } => entry["result"] == "valid" && state == known(&entry["target"])?,
            Verdict::Refused { code, offset } => {
                let forward =
                    entry["flags"].as_array().is_some_and(|flags| flags.contains(&"forward".into()));
                let same = entry["error"] == *code && entry["offset"] == *offset;
                entry["result"] == "invalid" && (same || forward)
            }
        };
        if !right {
            faults.push(format!("{id}: not what is due"));
        }
    }
    Ok(faults)
}

fn state(entry: &Value, states: &[State]) -> Result<State> {
    let mut rules = Vec::new();
    for tensor in array(&entry["tensors"])? {
        rules.push(Rule {
            name: text(&tensor["name"])?.to_owned(),
            dtype: text(&tensor["dtype"])?.to_owned().leak(),
            shape: array(&tensor["shape"])?.iter().map(number).collect::<Result<_>>()?,
            bytes: bytes(&tensor["bytes"])?,
        });
    }
    let order: Vec<String> = rules.iter().map(|rule| rule.name.clone()).collect();
    let state = State::make(text(&entry["id"])?.to_owned().leak(), rules, states);
    let in_order = |tensors: &[Tensor]| tensors.iter().map(|tensor| &tensor.name).eq(&order);
    ensure!(in_order(&state.tensors), "state {}: the tensors are not in the order of the schema", state.id);
    Ok(state)
}

fn bytes(rule: &Value) -> Result<Bytes> {
    let length = || Ok::<_, anyhow::Error>(number(&rule["length"])? as usize);
    if !rule["hex"].is_null() {
        return Ok(Bytes::Hex(hex(&rule["hex"])?));
    }
    if !rule["repeat"].is_null() {
        return Ok(Bytes::Repeat(hex(&rule["repeat"])?, length()?));
    }
    if !rule["random"].is_null() {
        let mask = |name: &str, none: u8| match &rule[name] {
            Value::Null => Ok(vec![none]),
            mask => hex(mask),
        };
        let (and, or) = (mask("and", 0xff)?, mask("or", 0)?);
        return Ok(Bytes::Random { seed: number(&rule["random"])?, len: length()?, and, or });
    }
    if !rule["parts"].is_null() {
        return Ok(Bytes::Parts(array(&rule["parts"])?.iter().map(bytes).collect::<Result<_>>()?));
    }
    let edits = array(&rule["edits"])?.iter().map(edit).collect::<Result<_>>()?;
    let (state, tensor) = (text(&rule["state"])?.to_owned().leak(), text(&rule["tensor"])?.to_owned());
    Ok(Bytes::Edited { state, tensor, edits })
}

fn edit(edit: &Value) -> Result<Edit> {
    if !edit["write"].is_null() {
        return Ok(Edit::Write { at: number(&edit["at"])? as usize, hex: hex(&edit["write"])? });
    }
    Ok(Edit::Nudge {
        width: number(&edit["width"])? as usize,
        seed: number(&edit["nudge"])?,
        one_in: number(&edit["one_in"])?,
        reach: number(&edit["reach"])?,
    })
}

fn array(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("{value} is no list"))
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("{value} is no text"))
}

fn number(value: &Value) -> Result<u64> {
    value.as_u64().with_context(|| format!("{value} is no number"))
}

fn hex(value: &Value) -> Result<Vec<u8>> {
    let digits = text(value)?;
    (0..digits.len())
        .step_by(2)
        .map(|at| Ok(u8::from_str_radix(digits.get(at..at + 2).context("an odd number of digits")?, 16)?))
        .collect()
}
