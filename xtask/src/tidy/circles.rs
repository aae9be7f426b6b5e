//! Import circles: no two files of a crate may need each other, directly or through others. A file needs another when
//! a `use` or an inline path in it names something that the other one defines.
//!
//! These are not edges: what a module names in the modules below it, which may name its private types in turn; the
//! re-exports (`pub use`) of a file that declares modules; and what only `#[cfg(test)]` code names. Names are followed through re-exports to the file that defines them. Method calls are not
//! seen: an `impl` needs the file of its type, and not the other way round.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::rust_tokens::{Token, tokens};

/// File to the files that it needs, each with a path that names something there.
type Edges = BTreeMap<PathBuf, BTreeMap<PathBuf, String>>;

/// Files whose circle is meant, each with the reason.
const MEANT: &[(&str, &str)] = &[(
    "sdk/rust/src/canvas/steps.rs",
    "the types are recursive: a canvas calls tasks, a task gets a context, and a context submits canvases",
)];

/// The circles of every crate whose folder is in `members`, a readable line each.
pub fn circles(root: &Path, members: &[String]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for member in members {
        for target in targets(&root.join(member).join("src"))? {
            let edges = Crate::read(&target)?.edges();
            let is_meant = |knot: &&Vec<PathBuf>| MEANT.iter().any(|(file, _)| knot.contains(&root.join(file)));
            found.extend(knots(&edges).iter().filter(|knot| !is_meant(knot)).map(|knot| describe(root, &edges, knot)));
        }
    }
    Ok(found)
}

/// The root files of a crate: its library and its programs.
fn targets(src: &Path) -> Result<Vec<PathBuf>> {
    let mut roots = vec![src.join("lib.rs"), src.join("main.rs")];
    if src.join("bin").is_dir() {
        for entry in fs::read_dir(src.join("bin"))? {
            let path = entry?.path();
            roots.push(if path.is_dir() { path.join("main.rs") } else { path });
        }
    }
    roots.retain(|path| path.is_file());
    roots.sort();
    Ok(roots)
}

/// Index of a module in `Crate::modules`.
type ModuleId = usize;

struct Crate {
    /// The first is the crate's root; an inline module has the file of the module around it.
    modules: Vec<Module>,
}

#[derive(Default)]
struct Module {
    file: PathBuf,
    parent: Option<ModuleId>,
    children: BTreeMap<String, ModuleId>,
    /// Names of the functions, types, constants and so on that are defined here.
    items: BTreeSet<String>,
    /// Names that a `use` of this module brings, with their paths.
    imports: BTreeMap<String, Vec<String>>,
    /// Paths whose every name comes (`use path::*`).
    globs: Vec<Vec<String>>,
    /// Paths that make an edge.
    named: Vec<Vec<String>>,
}

impl Crate {
    fn read(root: &Path) -> Result<Self> {
        let mut own = Self { modules: Vec::new() };
        let folder = root.parent().context("a root file lies in a folder")?;
        own.read_file(root, folder, None)?;
        Ok(own)
    }

    /// Reads a module's file, and those of its child modules, which lie in `folder`.
    fn read_file(&mut self, file: &Path, folder: &Path, parent: Option<ModuleId>) -> Result<ModuleId> {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let id = self.modules.len();
        self.modules.push(Module { file: file.to_owned(), parent, ..Module::default() });
        let declared =
            Scan { own: self, module: id, folder: folder.to_owned(), declared: Vec::new() }.run(&tokens(&text));
        for (module, name, folder) in declared {
            let (flat, nested) = (folder.join(format!("{name}.rs")), folder.join(&name).join("mod.rs"));
            let file = if flat.is_file() { flat } else { nested };
            let child = self.read_file(&file, &folder.join(&name), Some(module))?;
            self.modules[module].children.insert(name, child);
        }
        Ok(id)
    }

    fn edges(&self) -> Edges {
        let mut edges = Edges::new();
        for (id, module) in self.modules.iter().enumerate() {
            for path in &module.named {
                let Some(to) = self.resolve(id, path, &mut BTreeSet::new()) else { continue };
                if self.is_below(to, id) {
                    continue;
                }
                let to = &self.modules[to].file;
                if *to != module.file {
                    let from = edges.entry(module.file.clone()).or_default();
                    from.entry(to.clone()).or_insert_with(|| path.join("::"));
                }
            }
        }
        edges
    }

    /// Whether a module lies in another one, at any depth.
    fn is_below(&self, module: ModuleId, above: ModuleId) -> bool {
        let parent = self.modules[module].parent;
        parent.is_some_and(|parent| parent == above || self.is_below(parent, above))
    }

    /// The module whose file defines what a path names; none for what other crates define. `seen` are the names that
    /// are being looked up: imports may name each other in a circle.
    fn resolve(&self, from: ModuleId, path: &[String], seen: &mut BTreeSet<(ModuleId, String)>) -> Option<ModuleId> {
        let (mut at, mut rest) = (from, path);
        while let [first, tail @ ..] = rest {
            match first.as_str() {
                "crate" => at = 0,
                "self" => {}
                "super" => at = self.modules[at].parent?,
                _ => break,
            }
            rest = tail;
        }
        let is_ours = rest.len() < path.len();
        for (i, name) in rest.iter().enumerate() {
            let module = &self.modules[at];
            if let Some(child) = module.children.get(name) {
                at = *child;
                continue;
            }
            if module.items.contains(name) {
                return Some(at);
            }
            if !seen.insert((at, name.clone())) {
                return None;
            }
            let is_first = seen.len() == 1;
            let mut through = |path: &[String], tail: &[String]| self.resolve(at, &[path, tail].concat(), seen);
            if let Some(path) = module.imports.get(name) {
                return through(path, &rest[i + 1..]);
            }
            let found = module.globs.iter().find_map(|path| through(path, &rest[i..]));
            // What a macro defines is defined where the macro is called.
            let by_macro = is_first && module.globs.is_empty() && (is_ours || i > 0);
            return found.or(by_macro.then_some(at));
        }
        (at != from || is_ours).then_some(at)
    }
}

/// Reads one file's tokens into the modules that it holds.
struct Scan<'a> {
    own: &'a mut Crate,
    module: ModuleId,
    folder: PathBuf,
    /// `mod name;`: where it stands, its name, and the folder in which its file lies.
    declared: Vec<(ModuleId, String, PathBuf)>,
}

impl Scan<'_> {
    fn run(mut self, tokens: &[Token]) -> Vec<(ModuleId, String, PathBuf)> {
        let has_modules = tokens.windows(3).any(|t| t[0].is("mod") && t[1].is_word() && t[2].is(";"));
        self.block(tokens, has_modules);
        self.declared
    }

    /// The items of one module. A file that declares modules may re-export them.
    fn block(&mut self, tokens: &[Token], has_modules: bool) {
        let (mut at, mut depth, mut is_public) = (0, 0usize, false);
        while at < tokens.len() {
            let next = |i: usize| tokens.get(at + i).map_or("", |t| t.text.as_str());
            match next(0) {
                "#" if next(1) == "[" => {
                    let end = closing(tokens, at + 1);
                    let words: Vec<&str> = tokens[at..end].iter().map(|t| t.text.as_str()).collect();
                    let is_test = words.windows(2).any(|w| w == ["cfg", "("]) && words.contains(&"test");
                    at = if is_test && !words.contains(&"not") { item_end(tokens, end) } else { end };
                    continue;
                }
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth = depth.saturating_sub(1),
                "pub" => {
                    is_public = true;
                    at = if next(1) == "(" { closing(tokens, at + 1) } else { at + 1 };
                    continue;
                }
                "mod" if depth == 0 && next(2) == ";" => {
                    self.declared.push((self.module, next(1).to_owned(), self.folder.clone()));
                    at += 2;
                }
                "mod" if depth == 0 && next(2) == "{" => {
                    let end = closing(tokens, at + 2);
                    self.inline_module(next(1), &tokens[at + 3..end - 1]);
                    at = end;
                    continue;
                }
                "use" => {
                    let end = tokens[at..].iter().position(|t| t.is(";")).map_or(tokens.len(), |i| at + i);
                    self.import(&tokens[at + 1..end], depth == 0, is_public && has_modules && depth == 0);
                    at = end;
                }
                "fn" | "struct" | "enum" | "union" | "trait" | "type" | "const" | "static" if depth == 0 => {
                    let name = if next(1) == "mut" { next(2) } else { next(1) };
                    self.own.modules[self.module].items.insert(name.to_owned());
                }
                _ if tokens[at].is_word() && next(1) == "::" && !before(tokens, at, &["::", "."]) => {
                    at += self.inline_path(&tokens[at..]);
                    continue;
                }
                _ => {}
            }
            // `pub` belongs to the keyword that follows it.
            is_public = false;
            at += 1;
        }
    }

    fn inline_module(&mut self, name: &str, tokens: &[Token]) {
        let parent = self.module;
        let file = self.own.modules[parent].file.clone();
        self.module = self.own.modules.len();
        self.own.modules.push(Module { file, parent: Some(parent), ..Module::default() });
        self.own.modules[parent].children.insert(name.to_owned(), self.module);
        let folder = self.folder.join(name);
        let outer = std::mem::replace(&mut self.folder, folder);
        self.block(tokens, false);
        self.folder = outer;
        self.module = parent;
    }

    /// `use …`: each leaf of the tree is a path. Names of the module's own level are remembered.
    fn import(&mut self, tree: &[Token], of_module: bool, is_reexport: bool) {
        let mut leaves = Vec::new();
        use_leaves(tree, &[], &mut leaves);
        let module = &mut self.own.modules[self.module];
        for (path, name) in leaves {
            if !is_reexport {
                module.named.push(path.clone());
            }
            match name.as_str() {
                _ if !of_module => {}
                "*" => module.globs.push(path),
                _ => drop(module.imports.insert(name, path)),
            }
        }
    }

    /// A path in an expression or a type; how many tokens it has.
    fn inline_path(&mut self, tokens: &[Token]) -> usize {
        let mut path = vec![tokens[0].text.clone()];
        let mut length = 1;
        while tokens.get(length).is_some_and(|t| t.is("::")) && tokens.get(length + 1).is_some_and(Token::is_word) {
            path.push(tokens[length + 1].text.clone());
            length += 2;
        }
        self.own.modules[self.module].named.push(path);
        length
    }
}

/// The paths of a use tree, each with the name that it brings (`*` for a glob).
fn use_leaves(tree: &[Token], prefix: &[String], leaves: &mut Vec<(Vec<String>, String)>) {
    let mut path = prefix.to_vec();
    let mut at = 0;
    while at < tree.len() {
        match tree[at].text.as_str() {
            "::" => {}
            "{" => {
                let inner = &tree[at + 1..closing(tree, at) - 1];
                let (mut start, mut depth) = (0, 0);
                for (i, token) in inner.iter().enumerate() {
                    match token.text.as_str() {
                        "{" => depth += 1,
                        "}" => depth -= 1,
                        "," if depth == 0 => {
                            use_leaves(&inner[start..i], &path, leaves);
                            start = i + 1;
                        }
                        _ => {}
                    }
                }
                return use_leaves(&inner[start..], &path, leaves);
            }
            "*" => return leaves.push((path, "*".to_owned())),
            "as" => {
                let name = tree.get(at + 1).map_or_else(String::new, |t| t.text.clone());
                return leaves.push((path, name));
            }
            "self" if !path.is_empty() => {}
            word => path.push(word.to_owned()),
        }
        at += 1;
    }
    if let Some(name) = path.last().filter(|_| path.len() > prefix.len() || !tree.is_empty()).cloned() {
        leaves.push((path, name));
    }
}

fn before(tokens: &[Token], at: usize, words: &[&str]) -> bool {
    at > 0 && words.contains(&tokens[at - 1].text.as_str())
}

/// The index behind the bracket that closes the one at `open`.
fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i + 1;
        }
    }
    tokens.len()
}

/// The index behind the item that starts at `at`: behind its `;` or its braces.
fn item_end(tokens: &[Token], mut at: usize) -> usize {
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            ";" => return at + 1,
            "{" => return closing(tokens, at),
            "(" | "[" => at = closing(tokens, at),
            "}" => return at,
            _ => at += 1,
        }
    }
    at
}

/// Sets of files that all need each other (strongly connected components of more than one file).
fn knots(edges: &Edges) -> Vec<Vec<PathBuf>> {
    let mut knots: Vec<Vec<PathBuf>> = Vec::new();
    for file in edges.keys() {
        if knots.iter().any(|knot| knot.contains(file)) {
            continue;
        }
        let ahead = reachable(edges, file);
        let knot: Vec<PathBuf> = ahead.iter().filter(|other| reachable(edges, other).contains(file)).cloned().collect();
        if knot.len() > 1 {
            knots.push(knot);
        }
    }
    knots
}

/// The files that a file needs, directly or not.
fn reachable(edges: &Edges, from: &Path) -> BTreeSet<PathBuf> {
    let mut seen = BTreeSet::new();
    let mut open = vec![from];
    while let Some(file) = open.pop() {
        for next in edges.get(file).into_iter().flat_map(BTreeMap::keys) {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    seen
}

/// The shortest circle of a knot with the names that make it, and how many files the knot has.
fn describe(root: &Path, edges: &Edges, knot: &[PathBuf]) -> String {
    let circle = knot.iter().filter_map(|file| shortest_circle(edges, file)).min_by_key(Vec::len).unwrap_or_default();
    let shown = |file: &Path| file.strip_prefix(root).unwrap_or(file).display().to_string();
    let step =
        |(from, to): (&PathBuf, &PathBuf)| format!("{} needs {} for {}", shown(from), shown(to), edges[from][to]);
    let steps: Vec<String> = circle.iter().zip(circle.iter().cycle().skip(1)).map(step).collect();
    let all = if knot.len() > circle.len() {
        format!(" ({} files are tied up with each other)", knot.len())
    } else {
        String::new()
    };
    format!("an import circle: {}{all}", steps.join("; "))
}

fn shortest_circle(edges: &Edges, from: &PathBuf) -> Option<Vec<PathBuf>> {
    let mut paths = vec![vec![from.clone()]];
    let mut seen = BTreeSet::new();
    while !paths.is_empty() {
        let mut longer = Vec::new();
        for path in paths {
            for next in path.last().and_then(|last| edges.get(last)).into_iter().flat_map(BTreeMap::keys) {
                if next == from {
                    return Some(path);
                }
                if seen.insert(next.clone()) {
                    longer.push([path.as_slice(), std::slice::from_ref(next)].concat());
                }
            }
        }
        paths = longer;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The circles of a crate with these files.
    fn circles_of(files: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join("one/src").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        circles(folder.path(), &["one".to_owned()]).unwrap()
    }

    #[test]
    fn two_files_that_import_each_other_are_a_circle() {
        let found = circles_of(&[
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "use crate::b::{self, two}; pub fn one() {}"),
            ("b.rs", "pub fn two() { super::a::one() }"),
        ]);
        let circle = "one/src/a.rs needs one/src/b.rs for crate::b; one/src/b.rs needs one/src/a.rs for super::a::one";
        assert_eq!(found, [format!("an import circle: {circle}")]);
    }

    #[test]
    fn a_circle_of_three_is_found_through_reexports_and_inline_modules() {
        let found = circles_of(&[
            ("lib.rs", "mod a; mod b; mod c; pub use c::Three;"),
            ("a.rs", "mod inner { pub fn one(x: super::super::b::Two) {} } pub struct One;"),
            ("b.rs", "use crate::Three as Renamed; pub struct Two(Renamed);"),
            ("c.rs", "pub struct Three; impl Three { fn f() { let x = crate::a::One; } }"),
        ]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("src/b.rs needs one/src/c.rs for crate::Three"), "{found:?}");
    }

    #[test]
    fn a_parent_and_its_child_may_need_each_other_and_two_children_may_not() {
        let found = circles_of(&[
            ("lib.rs", "mod room; pub struct Config;"),
            ("room/mod.rs", "mod one; mod two; pub use one::go; pub struct State; fn f() { two::stop(State) }"),
            ("room/one.rs", "use super::{State, two::stop}; pub fn go(s: crate::Config) {}"),
            ("room/two.rs", "use super::{State, go}; pub fn stop(s: State) {}"),
        ]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].ends_with("one/src/room/two.rs needs one/src/room/one.rs for super::go"), "{found:?}");
    }

    #[test]
    fn tests_comments_and_other_crates_make_no_edge() {
        let found = circles_of(&[
            ("lib.rs", "mod a; mod b; #[cfg(test)] mod tests;"),
            ("a.rs", "use crate::b::two; pub fn one() {} // crate::b\n#[cfg(test)] mod tests { use super::*; }"),
            ("b.rs", "use serde::a::one; pub fn two() {} #[cfg(test)] mod tests { use crate::a::one; fn f() {} }"),
            ("tests.rs", "use crate::a::one;"),
        ]);
        assert!(found.is_empty(), "{found:?}");
    }
}
