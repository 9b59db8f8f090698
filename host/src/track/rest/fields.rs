//! How protobuf's JSON writes values: a 64-bit integer may be text, a float may be `"NaN"`, a word its number, and null is
//! what is not there. Messages are objects.

use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IntoDeserializer as _, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serializer};

/// Entries of a list of objects: far more than any request may have, so that a list takes little memory until that is
/// checked.
const OBJECTS_MAX: usize = 100_000;

/// An integer, as a number, a float without a fraction, or text.
pub(crate) fn int<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    deserializer.deserialize_any(Int)
}

/// Like [`int`], where null is zero.
pub(crate) fn int_or_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    opt_int(deserializer).map(Option::unwrap_or_default)
}

/// Anything, where null is the default.
pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// What protobuf has a number for.
pub(crate) trait Numbered: Sized {
    /// What has the number.
    fn of_number(number: i64) -> Option<Self>;
}

/// A word or its number, as a number or as text; null is none.
pub(crate) fn word_or_number<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Numbered + Deserialize<'de>,
{
    struct Word<T>(PhantomData<T>);
    impl<'de, T: Numbered + Deserialize<'de>> Visitor<'de> for Word<T> {
        type Value = Option<T>;

        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("a word, its number or null")
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
            match T::of_number(number) {
                Some(value) => Ok(Some(value)),
                None => Err(E::invalid_value(Unexpected::Signed(number), &self)),
            }
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
            self.visit_i64(i64::try_from(number).unwrap_or(i64::MAX))
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            match text.parse() {
                Ok(number) => self.visit_i64(number),
                Err(_) => T::deserialize(text.into_deserializer()).map(Some),
            }
        }
    }
    deserializer.deserialize_any(Word(PhantomData))
}

/// Like [`word_or_number`], where null is the default.
pub(crate) fn word_or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Numbered + Deserialize<'de> + Default,
{
    word_or_number(deserializer).map(Option::unwrap_or_default)
}

/// Like [`int`], where null is none.
pub(crate) fn opt_int<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    struct Optional;
    impl<'de> Visitor<'de> for Optional {
        type Value = Option<i64>;

        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("an integer or null")
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
            Int.visit_i64(value).map(Some)
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
            Int.visit_u64(value).map(Some)
        }

        fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
            Int.visit_f64(value).map(Some)
        }

        fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
            Int.visit_str(value).map(Some)
        }
    }
    deserializer.deserialize_any(Optional)
}

struct Int;

impl<'de> Visitor<'de> for Int {
    type Value = i64;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an integer")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<i64, E> {
        Ok(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<i64, E> {
        i64::try_from(value).map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<i64, E> {
        // Beyond 2^53 a float names no integer with certainty.
        if value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0 {
            Ok(value as i64)
        } else {
            Err(E::invalid_value(Unexpected::Float(value), &self))
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<i64, E> {
        value.parse().map_err(|_| E::invalid_value(Unexpected::Str(value), &self))
    }
}

/// A float, which may be `"NaN"`, `"Infinity"` or `"-Infinity"`.
pub(crate) mod double {
    use super::*;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        deserializer.deserialize_any(Double)
    }

    pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        match *value {
            value if value.is_nan() => serializer.serialize_str("NaN"),
            f64::INFINITY => serializer.serialize_str("Infinity"),
            f64::NEG_INFINITY => serializer.serialize_str("-Infinity"),
            value => serializer.serialize_f64(value),
        }
    }

    struct Double;

    impl<'de> Visitor<'de> for Double {
        type Value = f64;

        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("a number, \"NaN\", \"Infinity\" or \"-Infinity\"")
        }

        fn visit_f64<E: Error>(self, value: f64) -> Result<f64, E> {
            Ok(value)
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<f64, E> {
            Ok(value as f64)
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<f64, E> {
            Ok(value as f64)
        }

        fn visit_str<E: Error>(self, value: &str) -> Result<f64, E> {
            match value {
                "NaN" => Ok(f64::NAN),
                "Infinity" => Ok(f64::INFINITY),
                "-Infinity" => Ok(f64::NEG_INFINITY),
                other => other
                    .parse::<f64>()
                    .ok()
                    .filter(|number| number.is_finite())
                    .ok_or_else(|| E::invalid_value(Unexpected::Str(value), &self)),
            }
        }
    }
}

/// What JSON writes as an object, and only so: a structure would be read from a list of its fields too.
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Map<T> {
            type Value = Object<T>;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Map(PhantomData))
    }
}

/// A list of [`Object`]s; null is an empty one.
pub(crate) fn objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct Objects<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Objects<T> {
        type Value = Vec<T>;

        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("a list of objects")
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut values = Vec::new();
            while let Some(Object(value)) = list.next_element()? {
                if values.len() == OBJECTS_MAX {
                    return Err(A::Error::custom(format!("a list has more than {OBJECTS_MAX} entries")));
                }
                values.push(value);
            }
            Ok(values)
        }
    }
    deserializer.deserialize_any(Objects(PhantomData))
}

/// Text or a list of texts: a query that names a key once has no list.
pub(crate) fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Texts;
    impl<'de> Visitor<'de> for Texts {
        type Value = Vec<String>;

        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("a list of texts")
        }

        fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
            Ok(vec![value.to_owned()])
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut values = Vec::new();
            while let Some(value) = list.next_element()? {
                values.push(value);
            }
            Ok(values)
        }
    }
    deserializer.deserialize_any(Texts)
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Debug, Deserialize, Serialize)]
    struct Fields {
        #[serde(deserialize_with = "super::int")]
        int: i64,
        #[serde(with = "super::double")]
        double: f64,
        #[serde(default, deserialize_with = "super::texts")]
        texts: Vec<String>,
        #[serde(default, deserialize_with = "super::opt_int")]
        opt: Option<i64>,
    }

    fn read(text: &str) -> Result<Fields, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn reads_numbers_as_protobuf_writes_them() {
        let fields = read(r#"{"int": "9007199254740993", "double": "NaN", "texts": "a", "opt": "7"}"#);
        let fields = fields.unwrap();
        assert_eq!((fields.int, fields.opt), (9_007_199_254_740_993, Some(7)));
        assert!(fields.double.is_nan());
        assert_eq!(fields.texts, ["a"]);
        let fields = read(r#"{"int": 3.0, "double": 1, "opt": null, "texts": ["a", "b"]}"#).unwrap();
        assert_eq!((fields.int, fields.double, fields.opt), (3, 1.0, None));
        assert_eq!(read(r#"{"int": 1, "double": "-Infinity"}"#).unwrap().double, f64::NEG_INFINITY);
        let written = serde_json::to_string(&read(r#"{"int": 1, "double": "Infinity"}"#).unwrap()).unwrap();
        assert!(written.contains(r#""double":"Infinity""#), "{written}");
    }

    #[test]
    fn objects_are_not_read_from_lists() {
        #[derive(Debug, Deserialize)]
        struct Outer {
            #[serde(default, deserialize_with = "super::objects")]
            inner: Vec<Fields>,
        }
        let read =
            |text: &str| serde_json::from_str::<super::Object<Outer>>(text).map(|outer| outer.0.inner.len());
        assert_eq!(read(r#"{"inner": [{"int": 1, "double": 1}, {"double": 2, "int": 2}]}"#).unwrap(), 2);
        assert_eq!(read("{}").unwrap(), 0);
        assert_eq!(read(r#"{"inner": null}"#).unwrap(), 0);
        for text in [r#"[[]]"#, "[]", r#"{"inner": [[1, 1]]}"#, r#"{"inner": {}}"#, r#"{"inner": "x"}"#] {
            assert!(read(text).is_err(), "{text}");
        }
        let many = format!(r#"{{"inner": [{}]}}"#, vec![r#"{"int":1,"double":1}"#; 100_001].join(","));
        assert!(read(&many).unwrap_err().to_string().contains("more than 100000 entries"));
    }

    #[test]
    fn null_is_what_is_not_there_and_a_number_is_its_word() {
        use crate::track::{RunStatus, ViewType};

        #[derive(Debug, Default, PartialEq, Deserialize)]
        struct Lenient {
            #[serde(default, deserialize_with = "super::or_default")]
            text: String,
            #[serde(default, deserialize_with = "super::or_default")]
            list: Vec<String>,
            #[serde(default, deserialize_with = "super::int_or_zero")]
            int: i64,
            #[serde(default, deserialize_with = "super::word_or_number")]
            status: Option<RunStatus>,
            #[serde(default, deserialize_with = "super::word_or_default")]
            view: ViewType,
        }
        let read = |text: &str| serde_json::from_str::<Lenient>(text);
        let absent = read(r#"{"text": null, "list": null, "int": null, "status": null, "view": null}"#);
        assert_eq!(absent.unwrap(), Lenient::default());
        for (written, status) in
            [("3", RunStatus::Finished), ("\"5\"", RunStatus::Killed), ("\"FAILED\"", RunStatus::Failed)]
        {
            assert_eq!(read(&format!(r#"{{"status": {written}}}"#)).unwrap().status, Some(status));
        }
        assert_eq!(read(r#"{"view": 3}"#).unwrap().view, ViewType::All);
        for text in [
            r#"{"status": 0}"#,
            r#"{"status": 6}"#,
            r#"{"status": "DONE"}"#,
            r#"{"view": -1}"#,
            r#"{"view": 1.5}"#,
            r#"{"text": 1}"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn refuses_other_values() {
        for text in [
            r#"{"int": 1.5, "double": 1}"#,
            r#"{"int": "x", "double": 1}"#,
            r#"{"int": 1, "double": "inf"}"#,
            r#"{"int": 1, "double": "1e999"}"#,
            r#"{"int": 1, "double": true}"#,
            r#"{"int": 18446744073709551615, "double": 1}"#,
            r#"{"int": 1, "double": 1, "texts": [1]}"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
