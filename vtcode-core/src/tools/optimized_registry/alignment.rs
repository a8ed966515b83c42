//! The schema that a model is shown, the check of arguments and the tools' own reading of them
//! never disagree: arguments made from each schema, and the same bent in one place, are accepted by
//! both or by none.

use futures_util::FutureExt as _;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::json;

use super::*;
use crate::safety::permissions::Permissions;
use crate::tools::tool::PARSED;

/// Arguments that fit a schema.
fn fitting(schema: &Value) -> BoxedStrategy<Value> {
    match schema["type"].as_str() {
        Some("object") => {
            let required = schema["required"].clone();
            let properties = schema["properties"].as_object().cloned().unwrap_or_default();
            let fields: Vec<_> = properties
                .into_iter()
                .map(|(name, schema)| {
                    let given = fitting(&schema).prop_map(Some);
                    let needed = required.as_array().is_some_and(|r| r.contains(&json!(name)));
                    let value = if needed {
                        given.boxed()
                    } else {
                        prop_oneof![given, Just(Some(Value::Null)), Just(None)].boxed()
                    };
                    value.prop_map(move |value| Some((name.clone(), value?)))
                })
                .collect();
            fields.prop_map(|fields| Value::Object(fields.into_iter().flatten().collect())).boxed()
        }
        Some("array") => {
            let items = proptest::collection::vec(fitting(&schema["items"]), 0..3);
            items.prop_map(Value::Array).boxed()
        }
        Some("string") => match schema["enum"].as_array() {
            Some(values) => select(values.clone()).boxed(),
            None => select(vec![json!(""), json!("a"), json!("true"), json!("../x")]).boxed(),
        },
        Some("integer") => select(vec![json!(0), json!(7), json!(u64::MAX)]).boxed(),
        Some("boolean") => any::<bool>().prop_map(Value::Bool).boxed(),
        _ => panic!("the check does not know {schema}"),
    }
}

/// One place where arguments are bent.
#[derive(Debug, Clone)]
enum Bend {
    Not,
    Add(Index, &'static str),
    Remove(Index, Index),
    Replace(Index, Value),
}

fn bend() -> impl Strategy<Value = Bend> {
    let names = vec!["x", "file_path", "old_string", "input", "Path", ""];
    let values = vec![
        json!(null),
        json!("x"),
        json!("7"),
        json!(-1),
        json!(i64::MIN),
        json!(1.0),
        json!(1.5),
        json!(true),
        json!({}),
        json!({"x": 1}),
    ];
    prop_oneof![
        Just(Bend::Not),
        (any::<Index>(), select(names)).prop_map(|(at, name)| Bend::Add(at, name)),
        (any::<Index>(), any::<Index>()).prop_map(|(at, field)| Bend::Remove(at, field)),
        (any::<Index>(), select(values)).prop_map(|(at, value)| Bend::Replace(at, value)),
    ]
}

/// Returns where every value in a value stands, itself first.
fn places(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| places(value, &format!("{at}/{name}"), all));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(n, v)| places(v, &format!("{at}/{n}"), all));
        }
        _ => {}
    }
}

fn bent(mut args: Value, bend: &Bend) -> Value {
    let mut all = Vec::new();
    places(&args, "", &mut all);
    let at = |args: &Value, index: &Index, object: bool| {
        let fits = |at: &&String| !object || args.pointer(at).is_some_and(Value::is_object);
        let all: Vec<_> = all.iter().filter(fits).collect();
        index.get(&all).to_owned().clone()
    };
    match bend {
        Bend::Not => {}
        Bend::Add(index, name) => {
            let at = at(&args, index, true);
            args.pointer_mut(&at).unwrap()[*name] = json!("x");
        }
        Bend::Remove(index, field) => {
            let at = at(&args, index, true);
            let fields = args.pointer_mut(&at).unwrap().as_object_mut().unwrap();
            let names: Vec<_> = fields.keys().cloned().collect();
            if !names.is_empty() {
                fields.remove(field.get(&names));
            }
        }
        Bend::Replace(index, value) => {
            let at = at(&args, index, false);
            *args.pointer_mut(&at).unwrap() = value.clone();
        }
    }
    args
}

/// The built-in tools over an empty folder.
fn catalog() -> (tempfile::TempDir, OptimizedToolRegistry) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("work")).unwrap();
    let workspace = Arc::new(Workspace::open(&folder.path().join("work")).unwrap());
    let limits = Limits::full().tools;
    let off = Arc::new(crate::safety::sandbox::Sandbox::off());
    let tools = builtin::all(&workspace, folder.path().join("spool"), [], off, &limits);
    let permissions = Arc::new(Permissions::for_workspace(workspace));
    (folder, OptimizedToolRegistry::with_tools(tools, limits).with_permissions(permissions))
}

/// Returns whether the tool itself can read these arguments.
fn reads(tool: &Entry, args: &Value) -> bool {
    PARSED.set(None);
    tool.tool.effect(args);
    if let Some(parsed) = PARSED.get() {
        return parsed;
    }
    // A tool whose effect does not depend on its arguments reads them when it is called.
    let context = CallContext {
        call_id: "".into(),
        cancel: CancellationToken::new(),
        timeout: Duration::from_secs(1),
        progress: None,
    };
    let _ = tool.tool.call(args, &context).now_or_never();
    PARSED.get().unwrap_or_else(|| panic!("{} does not read its arguments", tool.name()))
}

#[test]
fn the_schema_the_check_and_the_tools_accept_the_same_arguments() {
    let (_folder, registry) = catalog();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    for spec in registry.specs() {
        let tool = registry.get(&spec.name).unwrap();
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        let cases = (fitting(&spec.parameters), bend());
        let tried = runner.run(&cases, |(args, bend)| {
            let whole = matches!(bend, Bend::Not);
            let args = bent(args, &bend);
            let checked = registry.check(&tool, &args);
            prop_assert!(!whole || checked.is_ok(), "{} {}: {:?}", spec.name, args, checked);
            let agree = checked.is_ok() == reads(&tool, &args);
            prop_assert!(agree, "{} {}: {:?}", spec.name, args, checked);
            Ok(())
        });
        tried.unwrap_or_else(|failed| panic!("{failed}"));
    }
}

#[test]
fn the_names_that_other_tools_use_lead_to_the_right_ones_in_one_step() {
    let (_folder, registry) = catalog();
    let told = |name: &str, args: Value| {
        let tool = registry.get(name).unwrap();
        registry.check(&tool, &args).unwrap_err().to_string()
    };
    let cases = [
        ("read_file", json!({"file_path": "a"}), "did you mean `path`?"),
        ("edit_file", json!({"file_path": "a"}), "did you mean `path`?"),
        ("edit_file", json!({"path": "a", "old_string": "b"}), "did you mean `old_text`?"),
        ("edit_file", json!({"path": "a", "new_string": "b"}), "did you mean `new_text`?"),
        ("write_file", json!({"file_path": "a", "content": ""}), "did you mean `path`?"),
        ("apply_patch", json!({"input": "x"}), "missing field `patch`: a string"),
    ];
    for (tool, args, expected) in cases {
        let told = told(tool, args);
        assert!(told.contains(expected), "{tool}: {told}");
    }
}

#[test]
fn what_is_shown_is_the_catalog_in_its_order() {
    let (_folder, registry) = catalog();
    let specs = registry.specs();
    let names: Vec<_> = specs.iter().map(|spec| spec.name.as_ref()).collect();
    for (n, name) in names.iter().enumerate() {
        let tool = registry.get(name).unwrap();
        assert_eq!((tool.id(), tool.spec()), (ToolId(n as u32), &specs[n]));
        assert_eq!(registry.get_tool_metadata(name).as_ref(), Some(&specs[n]));
        assert_eq!(registry.by_id(tool.id()).unwrap().name(), *name);
    }
    assert_eq!(specs, catalog().1.specs(), "the same in every session");
}
