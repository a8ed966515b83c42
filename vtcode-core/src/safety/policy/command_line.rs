//! The grammar of a command line: text comes in, a list of simple commands with literal words goes
//! out, or nothing when there is more to the line than that.
//! tree-sitter says what the pieces are; every piece is then checked again on its own characters,
//! and so is everything between the pieces. Where the two readings might differ from bash's, the
//! line is not read. Never expands anything.

use tree_sitter::{Node, Tree};

/// Longer lines are not read: they are scripts.
const MAX_BYTES: usize = 2 * 1024;

/// A line of simple commands, joined by `|`, `&&`, `||`, `;` or line ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CommandLine {
    pub(super) commands: Vec<SimpleCommand>,
}

/// A program or builtin with its arguments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SimpleCommand {
    /// The name first; never empty.
    pub(super) words: Vec<Word>,
    pub(super) redirects: Vec<Redirect>,
}

/// A word whose value is known, but for patterns of file names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Word {
    /// Without quotes.
    pub(super) text: String,
    /// It holds an unquoted `*`, `?` or `[`: it may stand for many words, or for itself.
    pub(super) glob: bool,
    /// It holds an unquoted `~`, which may stand for somebody's home.
    pub(super) tilde: bool,
}

/// A redirection to or from a literal name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Redirect {
    /// With its descriptor, if it names one: `<`, `>`, `2>`, `>&`, …
    pub(super) operator: String,
    pub(super) target: Word,
}

impl CommandLine {
    /// Reads a command line from its tree. None when any of it is not a literal simple command.
    pub(super) fn read(text: &str, tree: &Tree) -> Option<Self> {
        if text.len() > MAX_BYTES {
            return None;
        }
        if tree.root_node().has_error() {
            return None;
        }
        let mut reader = Reader { text, at: 0, commands: Vec::new() };
        reader.statements(tree.root_node())?;
        reader.gap(text.len(), Gap::Between)?;
        if reader.commands.iter().any(|command| command.words.is_empty()) {
            return None;
        }
        Some(Self { commands: reader.commands })
    }
}

/// What may stand between two pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gap {
    /// Within one command: blanks.
    Within,
    /// Between commands: blanks and line ends.
    Between,
}

/// Walks over the pieces in the order of the text and sees to it that none of it is left out.
struct Reader<'a> {
    text: &'a str,
    /// Where the last piece ended.
    at: usize,
    commands: Vec<SimpleCommand>,
}

impl<'a> Reader<'a> {
    /// Reads everything at or below `root`. A loop, because the tree is as deep as the line is long.
    fn statements(&mut self, root: Node<'_>) -> Option<()> {
        let mut open = vec![root];
        while let Some(node) = open.pop() {
            match node.kind() {
                "program" | "list" | "pipeline" | "redirected_statement" => {
                    let first = open.len();
                    open.extend(children(node));
                    // A redirection that stands alone is of no command, and not of the one before.
                    if node.kind() == "redirected_statement"
                        && open.get(first).is_some_and(|part| part.kind() == "file_redirect")
                    {
                        return None;
                    }
                    open[first..].reverse();
                }
                "command" => self.command(node)?,
                "test_command" => self.test_command(node)?,
                "file_redirect" => {
                    let redirect = self.redirect(node)?;
                    self.commands.last_mut()?.redirects.push(redirect);
                }
                "&&" | "||" | "|" | "|&" | ";" | "\n" => self.separator(node)?,
                "comment" => {
                    let text = self.piece(node, Gap::Between)?;
                    let before = self.text[..node.start_byte()].bytes().next_back();
                    let starts_word = matches!(before, None | Some(b' ' | b'\t' | b'\n'));
                    if !starts_word || !text.starts_with('#') || text.contains('\n') {
                        return None;
                    }
                }
                _ => return None,
            }
        }
        Some(())
    }

    /// Reads what joins two commands. Some of them the tree gives with the blanks around them.
    fn separator(&mut self, node: Node<'_>) -> Option<()> {
        let text = self.piece(node, Gap::Between)?;
        matches!(text.trim_matches([' ', '\t', '\n']), "&&" | "||" | "|" | "|&" | ";" | "")
            .then_some(())
    }

    fn command(&mut self, node: Node<'_>) -> Option<()> {
        self.gap(node.start_byte(), Gap::Between)?;
        let mut command = SimpleCommand::default();
        for part in children(node) {
            match part.kind() {
                "command_name" => {
                    let name = self.name(part)?;
                    command.words.push(name);
                }
                "file_redirect" => {
                    let redirect = self.redirect(part)?;
                    command.redirects.push(redirect);
                }
                _ => {
                    let word = self.word(part, Gap::Within)?;
                    command.words.push(word);
                }
            }
        }
        self.commands.push(command);
        Some(())
    }

    /// Reads a name that cannot be anything but itself: no quotes and no pattern. One with a path
    /// is no name that the table knows.
    fn name(&mut self, node: Node<'_>) -> Option<Word> {
        let [only] = children(node).try_into().ok()?;
        if only.kind() != "word" {
            return None;
        }
        let text = self.piece(node, Gap::Within)?;
        let literal = |b: u8| b.is_ascii_alphanumeric() || b"_-.+/".contains(&b);
        text.bytes().all(literal).then(|| Word { text: text.to_owned(), ..Word::default() })
    }

    /// Reads `[ … ]`, whose words have an inner structure that bash does not know.
    fn test_command(&mut self, node: Node<'_>) -> Option<()> {
        self.gap(node.start_byte(), Gap::Between)?;
        let mut words = Vec::new();
        let mut open = vec![node];
        while let Some(node) = open.pop() {
            match node.kind() {
                "test_command" | "unary_expression" | "binary_expression"
                | "negated_expression" => {
                    let first = open.len();
                    open.extend(children(node));
                    open[first..].reverse();
                }
                "[" | "]" | "!" | "=" | "==" | "!=" => {
                    let text = self.piece(node, Gap::Within)?.to_owned();
                    words.push(Word { text, ..Word::default() });
                }
                "test_operator" => {
                    let text = self.piece(node, Gap::Within)?;
                    words.push(unquoted(text)?);
                }
                _ => words.push(self.word(node, Gap::Within)?),
            }
        }
        self.commands.push(SimpleCommand { words, redirects: Vec::new() });
        Some(())
    }

    fn redirect(&mut self, node: Node<'_>) -> Option<Redirect> {
        let mut operator = String::new();
        let mut target = None;
        for part in children(node) {
            match part.kind() {
                // The descriptor touches the operator, or it is an argument.
                "file_descriptor" => operator.push_str(self.piece(part, Gap::Within)?),
                "<" | ">" | ">>" | "&>" | "&>>" | "<&" | ">&" | ">|" => {
                    if !operator.is_empty() && self.at != part.start_byte() {
                        return None;
                    }
                    operator.push_str(self.piece(part, Gap::Within)?);
                }
                _ if target.is_none() => target = Some(self.word(part, Gap::Within)?),
                _ => return None,
            }
        }
        Some(Redirect { operator, target: target? })
    }

    fn word(&mut self, node: Node<'_>, gap: Gap) -> Option<Word> {
        if node.kind() != "concatenation" {
            let text = self.piece(node, gap)?;
            return match node.kind() {
                "word" | "number" => unquoted(text),
                "raw_string" => single_quoted(text),
                "string" => double_quoted(text),
                _ => None,
            };
        }
        self.gap(node.start_byte(), gap)?;
        let mut whole = Word::default();
        for part in children(node) {
            if part.start_byte() != self.at {
                return None;
            }
            let word = self.word(part, gap)?;
            whole.text.push_str(&word.text);
            whole.glob |= word.glob;
            whole.tilde |= word.tilde;
        }
        Some(whole)
    }

    /// Goes over `node` and returns its text.
    fn piece(&mut self, node: Node<'_>, gap: Gap) -> Option<&'a str> {
        self.gap(node.start_byte(), gap)?;
        self.at = node.end_byte();
        self.text.get(node.byte_range())
    }

    /// Goes over what lies between the last piece and `to`.
    fn gap(&mut self, to: usize, gap: Gap) -> Option<()> {
        let between = self.text.get(self.at..to)?;
        self.at = to;
        let mut bytes = between.bytes();
        let mut blank = false;
        while let Some(byte) = bytes.next() {
            match byte {
                b' ' | b'\t' => blank = true,
                b'\n' if gap == Gap::Between => blank = true,
                // A line that goes on. Without a blank before it, it would join two words.
                b'\\' if blank && bytes.next() == Some(b'\n') => {}
                _ => return None,
            }
        }
        Some(())
    }
}

fn children(node: Node<'_>) -> Vec<Node<'_>> {
    node.children(&mut node.walk()).collect()
}

/// Reads a word without quotes: only characters that stand for themselves, patterns and `~`.
fn unquoted(text: &str) -> Option<Word> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./:=,+@%^*?[]!#~".contains(&b);
    if text.is_empty() || text.starts_with('#') || !text.bytes().all(plain) {
        return None;
    }
    Some(Word {
        text: text.to_owned(),
        glob: text.contains(['*', '?', '[']),
        tilde: text.contains('~'),
    })
}

fn single_quoted(text: &str) -> Option<Word> {
    let inner = text.strip_prefix('\'')?.strip_suffix('\'')?;
    quoted(inner.to_owned()).filter(|_| !inner.contains('\''))
}

/// Reads a string in double quotes that holds no expansion.
fn double_quoted(text: &str) -> Option<Word> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    let mut value = String::with_capacity(inner.len());
    let mut chars = inner.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' | '`' => return None,
            // Only where bash cannot take it for the start of an expansion: `"foo$"`, `"a$|b"`.
            '$' if !matches!(chars.peek(), None | Some(' ' | '|' | ')' | '/')) => return None,
            '\\' => match chars.next()? {
                escaped @ ('$' | '`' | '"' | '\\') => value.push(escaped),
                '\n' => {}
                other => value.extend(['\\', other]),
            },
            other => value.push(other),
        }
    }
    quoted(value)
}

/// Controls other than line ends and tabs have no place in a line that is read by people.
fn quoted(text: String) -> Option<Word> {
    let odd = |c: char| c.is_control() && c != '\n' && c != '\t';
    (!text.contains(odd)).then(|| Word { text, ..Word::default() })
}
