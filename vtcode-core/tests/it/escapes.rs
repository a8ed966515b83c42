//! Every tool against every way out of the workspace that a path can name, through the pipeline
//! and through the registry. What lies outside holds words that no result may hold, and is looked
//! at byte by byte afterwards. A tool that is new in the catalog fails here until it says which of
//! its arguments are paths.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::{Value, json};
use vtcode_core::config::limits::Limits;
use vtcode_core::safety::permissions::Permissions;
use vtcode_core::safety::workspace::Workspace;
use vtcode_core::tools::async_pipeline::{
    AsyncToolPipeline, ExecutionContext, ExecutionPriority, ToolRequest,
};
use vtcode_core::tools::builtin;
use vtcode_core::tools::optimized_registry::OptimizedToolRegistry;
use vtcode_core::tools::tool::{
    CallContext, Effect, Tool, ToolError, ToolFuture, ToolOutput, ToolSpec,
};

/// What the file outside holds, and the name of one beside it that no path names.
const SECRET: &str = "words-that-nobody-may-read";
const BESIDE: &str = "name-that-nobody-may-list";

/// A tool of somebody else's that opens whatever it is told, and says so.
struct Foreign {
    spec: ToolSpec,
    root: PathBuf,
    writes: bool,
}

impl Foreign {
    fn tool(name: &'static str, root: &Path, writes: bool) -> Arc<dyn Tool> {
        let parameters = json!({"type": "object", "properties": {"path": {"type": "string"}}});
        let spec = ToolSpec { name: name.into(), description: "".into(), parameters };
        Arc::new(Self { spec, root: root.to_owned(), writes })
    }

    fn path(&self, args: &Value) -> PathBuf {
        self.root.join(args["path"].as_str().unwrap_or_default())
    }
}

impl Tool for Foreign {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, args: &Value) -> Effect {
        if self.writes { Effect::write(self.path(args)) } else { Effect::read(self.path(args)) }
    }

    fn call<'a>(&'a self, args: &'a Value, _context: &'a CallContext) -> ToolFuture<'a> {
        Box::pin(async move {
            let path = self.path(args);
            let done = if self.writes {
                fs::write(path, "changed").map(|()| String::new())
            } else {
                fs::read_to_string(path)
            };
            done.map(ToolOutput::text).map_err(|e| ToolError::Failed(e.to_string()))
        })
    }
}

/// Makes the arguments of a call from a path.
type Way = fn(&str) -> Value;

/// Returns every argument of a tool that is a path; none for a tool that is not known here.
fn ways(tool: &str) -> Option<Vec<Way>> {
    let ways: Vec<Way> = match tool {
        "read_file" => vec![
            |path| json!({"path": path}),
            |path| json!({"files": [{"path": path}, {"path": "file"}]}),
        ],
        "list_files" => vec![|path| json!({"path": path, "depth": 3})],
        "grep_file" => vec![
            |path| json!({"pattern": "words", "path": path}),
            |path| json!({"pattern": "words", "glob": path}),
        ],
        "edit_file" => vec![|path| json!({"path": path, "old_text": SECRET, "new_text": "x"})],
        "write_file" => vec![|path| json!({"path": path, "content": "changed"})],
        "apply_patch" => vec![
            |path| patch(&format!("*** Add File: {path}\n+changed")),
            |path| patch(&format!("*** Delete File: {path}")),
            |path| patch(&format!("*** Update File: {path}\n@@\n-{SECRET}\n+changed")),
            |path| {
                patch(&format!("*** Update File: file\n*** Move to: {path}\n@@\n-inside\n+changed"))
            },
        ],
        "foreign_read" | "foreign_write" => vec![|path| json!({"path": path})],
        // They take no path: a command is judged by the policy and held by the sandbox.
        "run_command" | "command_output" | "command_stop" => vec![],
        _ => return None,
    };
    Some(ways)
}

fn patch(body: &str) -> Value {
    json!({"patch": format!("*** Begin Patch\n{body}\n*** End Patch")})
}

struct Place {
    dir: tempfile::TempDir,
    workspace: Arc<Workspace>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        fs::create_dir_all(inside.join("sub")).unwrap();
        fs::create_dir_all(outside.join("deep")).unwrap();
        fs::write(inside.join("file"), "inside\n").unwrap();
        fs::write(inside.join("sub/file"), "inside\n").unwrap();
        fs::write(outside.join("canary"), format!("{SECRET}\n")).unwrap();
        fs::write(outside.join(BESIDE), format!("{SECRET}\n")).unwrap();
        fs::write(outside.join("deep/canary"), format!("{SECRET}\n")).unwrap();
        for (link, target) in [
            ("link", "../out/canary"),
            ("folder", "../out"),
            ("chain", "chain2"),
            ("chain2", "link"),
            ("folders", "folder"),
            ("up", ".."),
            ("sub/up", "../.."),
            ("nothing", "../out/new"),
            ("loop", "loop"),
            ("root", "/"),
            ("self", "/proc/self/cwd"),
        ] {
            symlink(target, inside.join(link)).unwrap();
        }
        symlink(outside.join("canary"), inside.join("absolute")).unwrap();
        symlink(&outside, inside.join("absolute-folder")).unwrap();
        let workspace = Arc::new(Workspace::open(&inside).unwrap());
        Self { dir, workspace }
    }

    fn registry(&self) -> OptimizedToolRegistry {
        let limits = Limits::full().tools;
        let spool = self.dir.path().join("spool");
        let mut tools = builtin::all(
            &self.workspace,
            spool,
            [],
            Arc::new(vtcode_core::safety::sandbox::Sandbox::off()),
            &limits,
        );
        tools.push(Foreign::tool("foreign_read", self.workspace.root(), false));
        tools.push(Foreign::tool("foreign_write", self.workspace.root(), true));
        let permissions = Permissions::for_workspace(Arc::clone(&self.workspace));
        OptimizedToolRegistry::with_tools(tools, limits).with_permissions(Arc::new(permissions))
    }

    /// Everything outside, with its content.
    fn outside(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut all = BTreeMap::new();
        let mut folders = vec![self.dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path == self.dir.path().join("in") {
                    continue;
                }
                let is_folder = path.is_dir() && !path.is_symlink();
                let content = if is_folder { vec![] } else { fs::read(&path).unwrap_or_default() };
                if is_folder {
                    folders.push(path.clone());
                }
                all.insert(path, content);
            }
        }
        all
    }

    /// The ways out.
    fn escapes(&self) -> Vec<String> {
        let out = self.dir.path().join("out");
        let canary = out.join("canary");
        let (out, canary) = (out.to_str().unwrap(), canary.to_str().unwrap());
        let inside = self.workspace.root().to_str().unwrap();
        let mut escapes: Vec<String> = [
            "../out/canary",
            "../out",
            "..",
            "../",
            "../out/",
            "../out/new",
            "../out/deep/canary",
            "./../out/canary",
            "sub/../../out/canary",
            "sub/../../out",
            "a/b/../../../out/canary",
            ".//..//out//canary",
            "sub/./../../out/canary",
            "../in/../out/canary",
            "../../../../../../etc/passwd",
            "/",
            "/etc/passwd",
            "/proc/self/environ",
            "/proc/self/cwd/../out/canary",
            "/dev/fd/0",
            "/dev/stdin",
            "/proc/self/fd/0",
            "//etc/passwd",
            "/./etc/passwd",
            "/tmp/../etc/passwd",
            "link",
            "absolute",
            "chain",
            "chain2",
            "folder",
            "folder/canary",
            "folder/deep/canary",
            "folder/new",
            "folders/canary",
            "folder/../out/canary",
            "absolute-folder/canary",
            "absolute-folder",
            "up/out/canary",
            "up",
            "sub/up/out/canary",
            "sub/../folder/canary",
            "nothing",
            "loop",
            "loop/x",
            "root/etc/passwd",
            "self/../out/canary",
            "link/",
            "link/.",
            "folder/.",
            "./link",
            "sub/../link",
            "folder//canary",
            "~",
            "~/x",
            "~root/x",
            "$HOME/x",
            "%2e%2e/out/canary",
            "..%2fout/canary",
            "%2e%2e%2fout%2fcanary",
            "..\\out\\canary",
            "．．/out/canary",
            "‥/out/canary",
            "..\u{200b}/out/canary",
            "..\u{2215}out\u{2215}canary",
            "\u{202e}../out/canary",
            "../out/canary ",
            "../out/canary.",
            " ../out/canary",
            "../OUT/CANARY",
            "LINK",
            "..../out/canary",
            "../out/canary\n",
            "\n../out/canary",
            "..\n/out/canary",
            "../out/canary\0",
            "\0",
            "file\0/../../out/canary",
            "file/../../out/canary",
            "file:../out/canary",
            "-",
            "--",
            "*",
            "../*",
            "../out/*",
            "{../out/canary,file}",
            "[.][.]/out/canary",
            "../**/canary",
        ]
        .map(str::to_owned)
        .into();
        escapes.extend([
            canary.to_owned(),
            out.to_owned(),
            format!("{out}/new"),
            format!("/{canary}"),
            format!("{inside}/../out/canary"),
            format!("{inside}2/../out/canary"),
            format!("/proc/self/root{canary}"),
            format!("/proc/thread-self/root{canary}"),
            format!("root{canary}"),
            format!("file://{canary}"),
            format!("{}{}", "../".repeat(600), &canary[1..]),
            format!("{}/{}out/canary", vec!["a"; 600].join("/"), "../".repeat(601)),
            "a".repeat(300),
            format!("../{}", "a".repeat(5000)),
        ]);
        escapes
    }
}

/// Makes the same call through the registry and through the pipeline.
async fn both(
    registry: &Arc<OptimizedToolRegistry>,
    pipeline: &AsyncToolPipeline,
    tool: &str,
    args: &Value,
) -> [String; 2] {
    let text = |result: Result<ToolOutput, ToolError>| match result {
        Ok(output) => output.text,
        Err(error) => error.to_string(),
    };
    let direct = text(registry.execute_tool_optimized(tool, args.clone()).await);
    let request = ToolRequest {
        id: "call".to_owned(),
        tool_name: tool.to_owned(),
        args: args.clone(),
        priority: ExecutionPriority::Normal,
        timeout: Duration::MAX,
        context: ExecutionContext::default(),
    };
    let id = pipeline.submit_request(request).await.unwrap();
    [direct, text(pipeline.wait_result(&id).await.result)]
}

#[track_caller]
fn told_nothing(text: &str, tool: &str, path: &str) {
    // The arguments of some calls hold the secret, and an error may repeat them.
    let repeats = matches!(tool, "edit_file" | "apply_patch");
    assert!(repeats || !text.contains(SECRET), "{tool} read `{path:?}`: {text}");
    assert!(!text.contains(BESIDE), "{tool} listed `{path:?}`: {text}");
    assert!(!text.contains("root:x:0"), "{tool} read `{path:?}`: {text}");
}

#[test]
fn every_tool_says_which_of_its_arguments_are_paths() {
    for spec in Place::new().registry().specs() {
        let ways = ways(&spec.name);
        let ways =
            ways.unwrap_or_else(|| panic!("`{}` is not covered: add it to `ways`", spec.name));
        // A path under another name, or in a tool that is said to take none.
        let schema = spec.parameters.to_string();
        let names_paths = schema.contains("\"path\"") || schema.contains("\"patch\"");
        assert_eq!(names_paths, !ways.is_empty(), "{}", spec.name);
        for argument in ["dir", "file", "folder", "cwd", "directory", "root", "target", "paths"] {
            let named = schema.contains(&format!("\"{argument}\":{{"));
            assert!(!named, "`{}` takes a `{argument}`: is it a path?", spec.name);
        }
    }
}

#[tokio::test]
async fn no_path_leads_any_tool_out() {
    let place = Place::new();
    let registry = Arc::new(place.registry());
    let pipeline = AsyncToolPipeline::with_registry(Arc::clone(&registry));
    let before = place.outside();
    let escapes = place.escapes();
    assert!(escapes.len() >= 50);
    for spec in registry.specs() {
        for way in ways(&spec.name).unwrap_or_default() {
            for path in &escapes {
                let args = way(path);
                for text in both(&registry, &pipeline, &spec.name, &args).await {
                    told_nothing(&text, &spec.name, path);
                }
                assert!(place.outside() == before, "{} changed `{path:?}`", spec.name);
            }
        }
    }
    pipeline.shutdown().await;
}

#[tokio::test]
async fn what_somebody_elses_tool_may_open_lies_inside() {
    let place = Place::new();
    let registry = place.registry();
    let read =
        registry.execute_tool_optimized("foreign_read", json!({"path": "sub/../file"})).await;
    assert_eq!(read.unwrap().text, "inside\n");
    registry.execute_tool_optimized("foreign_write", json!({"path": "made"})).await.unwrap();
    assert_eq!(fs::read_to_string(place.workspace.root().join("made")).unwrap(), "changed");
    let refused = registry.execute_tool_optimized("foreign_read", json!({"path": "folder/canary"}));
    let refused = refused.await.unwrap_err().to_string();
    assert!(refused.contains("a link in `folder/canary` leads outside"), "{refused}");
}

#[tokio::test]
async fn a_folder_swapped_for_a_link_out_leads_no_built_in_tool_out() {
    let place = Place::new();
    let registry = Arc::new(place.registry());
    let pipeline = AsyncToolPipeline::with_registry(Arc::clone(&registry));
    let root = place.workspace.root().to_owned();
    fs::create_dir(root.join("swap")).unwrap();
    fs::write(root.join("swap/canary"), "inside\n").unwrap();
    symlink("../out", root.join("other")).unwrap();
    let before = place.outside();
    let stop = Arc::new(AtomicBool::new(false));
    let swapping = {
        let (stop, root) = (Arc::clone(&stop), root.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let (one, other) = (root.join("swap"), root.join("other"));
                renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
            }
        })
    };
    let mut told = Vec::new();
    for spec in registry.specs() {
        // Between the check of a tool of somebody else's and its use nobody can stand.
        if spec.name.starts_with("foreign") {
            continue;
        }
        for way in ways(&spec.name).unwrap_or_default() {
            for path in ["swap/canary", "swap", "swap/new"] {
                for _ in 0..20 {
                    for text in both(&registry, &pipeline, &spec.name, &way(path)).await {
                        told.push((text, spec.name.clone(), path));
                    }
                }
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    swapping.join().unwrap();
    for (text, tool, path) in told {
        told_nothing(&text, &tool, path);
    }
    assert!(place.outside() == before);
    pipeline.shutdown().await;
}
