//! What jobs answer: a JSON object of `host`, or the lines of a command's file of outputs.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde_json::{Map, Value};

/// Longest answer of a job.
pub(super) const ANSWER_MAX_BYTES: usize = 4 * 1024 * 1024;

/// The object that `host` printed.
pub(super) fn of_host(answer: &[u8], cut: bool) -> Result<Map<String, Value>, String> {
    if cut {
        return Err(format!("it answered more than {ANSWER_MAX_BYTES} bytes"));
    }
    match serde_json::from_slice(answer) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("it answered something else than a JSON object".to_owned()),
        Err(error) => Err(format!("it did not answer JSON: {error}")),
    }
}

/// The lines `name=value` that a command wrote: a value that is a JSON number, boolean, list or object is that, any
/// other is text. Of a name that stands twice the last counts; a file that is not there says nothing.
pub(super) fn of_command(path: &Path) -> Result<Map<String, Value>, String> {
    let mut text = String::new();
    match File::open(path) {
        Ok(file) => {
            let limit = ANSWER_MAX_BYTES as u64 + 1;
            file.take(limit)
                .read_to_string(&mut text)
                .map_err(|error| format!("its outputs cannot be read: {error}"))?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(error) => return Err(format!("its outputs cannot be read: {error}")),
    }
    if text.len() > ANSWER_MAX_BYTES {
        return Err(format!("it wrote more than {ANSWER_MAX_BYTES} bytes of outputs"));
    }
    let mut outputs = Map::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let (name, value) = line
            .split_once('=')
            .ok_or_else(|| format!("line {} of its outputs is not `name=value`", index + 1))?;
        let value = value.trim();
        let typed = serde_json::from_str(value).ok().filter(|typed: &Value| !typed.is_null());
        outputs.insert(name.trim().to_owned(), typed.unwrap_or_else(|| value.into()));
    }
    Ok(outputs)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn outputs(bytes: &[u8]) -> Result<Value, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outputs");
        std::fs::write(&path, bytes).unwrap();
        of_command(&path).map(Value::Object)
    }

    #[test]
    fn lines_are_outputs() {
        let found = outputs(
            b"model=sha256:ab\nrows = 12\n\nscore=0.5\nflag=true\nname=12 rows\na=1\na=null\nb=x=y\n",
        );
        let expected = json!({
            "model": "sha256:ab", "rows": 12, "score": 0.5, "flag": true, "name": "12 rows", "a": "null", "b": "x=y"
        });
        assert_eq!(found.unwrap(), expected);
        assert_eq!(outputs(b"").unwrap(), json!({}));
        assert_eq!(of_command(Path::new("/nowhere/outputs")).unwrap(), Map::new());
    }

    #[test]
    fn what_is_no_answer_is_told() {
        assert_eq!(outputs(b"a=1\nb\n").unwrap_err(), "line 2 of its outputs is not `name=value`");
        assert!(outputs(b"a=\xff\n").unwrap_err().starts_with("its outputs cannot be read"));
        assert!(outputs(&vec![b'a'; ANSWER_MAX_BYTES + 1]).unwrap_err().contains("more than"));
        assert_eq!(of_host(b"[1]", false).unwrap_err(), "it answered something else than a JSON object");
        assert!(of_host(b"Done.", false).unwrap_err().starts_with("it did not answer JSON"));
        assert!(of_host(b"{", true).unwrap_err().contains("more than"));
    }
}
