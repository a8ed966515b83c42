//! JSON of events, held against what serde reads of it.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// Reads a value back through everything above.
fn read(json: Json<'_>) -> Value {
    if json.is_object() {
        let mut fields = serde_json::Map::new();
        json.fields(|key, value| {
            fields.insert(Text(key).said().into_owned(), read(value));
        });
        fields.into()
    } else if json.is_list() {
        json.items().map(read).collect()
    } else if json.raw().starts_with('"') {
        json.text().said().into()
    } else {
        serde_json::from_str(json.raw()).unwrap()
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f32>().prop_map(|n| Value::from(f64::from(n))),
        "\\PC{0,24}".prop_map(Value::from),
        "[\"\\\\\n\t/\u{1}\u{7f}ü🙂]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-z\"\\\\]{0,3}", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_serde_wrote_is_read_as_serde_reads_it(written in any_value(), pretty: bool) {
        let text = if pretty {
            serde_json::to_string_pretty(&written).unwrap()
        } else {
            written.to_string()
        };
        let expected: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(read(value(&text).unwrap()), expected);
    }

    #[test]
    fn what_is_cut_off_is_never_sound(written in any_value(), cut: proptest::sample::Index) {
        let text = serde_json::json!({ "a": written }).to_string();
        let mut cut = cut.index(text.len());
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        let (half, whole) = (event(&text[..cut], |_, _| {}), event(&text, |_, _| {}));
        prop_assert!(half.is_err(), "{}", &text[..cut]);
        prop_assert!(whole.is_ok(), "{}", text);
    }

    #[test]
    fn no_text_breaks_it(text in "[{}\\[\\]\",:\\\\u0-9a-fé🙂 tn-]{0,40}") {
        if let Ok(json) = value(&text) {
            json.fields(|key, value| {
                Text(key).said();
                value.text().said();
            });
            json.items().for_each(|item| { item.text().said(); });
        }
    }
}

#[test]
fn structure_is_strict_and_fields_are_not() {
    for broken in [
        "",
        "{",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{\"a\":1 2}",
        "{a:1}",
        "{} {}",
        "{\"a\":tru}",
        "[1,]",
    ] {
        assert!(value(broken).is_err(), "{broken}");
    }
    assert!(event("[]", |_, _| {}).is_err());
    let deep = "[".repeat(300) + &"]".repeat(300);
    assert!(value(&deep).is_err());
    let odd = value(r#"{"a":[1],"b":1.5,"c":null,"d":"x"}"#).unwrap();
    assert!(odd.field("a").text().is_empty() && odd.field("b").text().is_empty());
    assert_eq!(odd.field("b").number::<u64>(), None);
    assert!(odd.field("c").is_none() && odd.field("e").is_none());
    assert_eq!(odd.field("d").items().count(), 0);
}

#[test]
fn escapes_and_what_is_none() {
    for (written, said) in [
        (r#""a\n\"\\\/\b\f\r\t\u00fc""#, "a\n\"\\/\u{8}\u{c}\r\tü"),
        (r#""\ud83d\ude42!""#, "🙂!"),
        (r#""\ud83d!""#, "\u{fffd}!"),
        (r#""\ude42\u0041""#, "\u{fffd}A"),
        (r#""\x\u12""#, "\u{fffd}x\u{fffd}12"),
        (r#""\é""#, "\u{fffd}é"),
    ] {
        assert_eq!(value(written).unwrap().text().said(), said, "{written}");
    }
    assert!(matches!(value("\"plain\"").unwrap().text().said(), Cow::Borrowed("plain")));
}
