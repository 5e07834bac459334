//! Values that follow from others: each a named rule with its inputs.

use crate::layer::{Layer, LayerKind, Leaf};
use crate::origin::{Input, Origin};
use crate::stack::Stack;
use crate::value::Value;
use crate::worker::Strategy;

/// The node's id where there is not even a host name.
const NAMELESS_NODE: &str = "node";

/// The layer of all rules that apply.
pub(crate) fn derive(stack: &Stack<'_>, strategy: Strategy, hostname: Option<&str>) -> Layer {
    let rules = [
        ("enableReusePort", reuse_port(stack, strategy)),
        ("cluster.nodeID", node_id(stack, hostname)),
        ("cluster.emitHeaders", follow(stack, "cluster.emitHeaders", "cluster.enabled")),
        ("cluster.observedNodes", follow(stack, "cluster.observedNodes", "cluster.expectedNodes")),
    ];
    let mut layer = Layer::new(LayerKind::Derived);
    layer.leaves.extend(rules.into_iter().filter_map(|(key, leaf)| Some((key, leaf?))));
    layer
}

/// Several workers can only bind one port with it. A single one that binds by itself needs it while its replacement
/// binds beside it, unless somebody said no.
fn reuse_port(stack: &Stack<'_>, strategy: Strategy) -> Option<Leaf> {
    let asked = stack.winner("enableReusePort")?;
    let workers = stack.int("propaneAccessories.workerCount");
    let (rule, inputs) = match asked.value {
        Value::Bool(true) => return None,
        _ if workers > 1 => (format!("propaneAccessories.workerCount = {workers} > 1"), vec!["workerCount"]),
        _ if strategy.binds_by_itself() && !asked.origin.is_explicit() => {
            let rule = format!(
                "a worker that binds by itself ({}) is replaced by one that binds beside it",
                strategy.as_str()
            );
            (rule, vec!["socketStrategy", "workerCount"])
        }
        _ => return None,
    };
    let inputs = inputs.into_iter().map(|name| input(stack, &format!("propaneAccessories.{name}"))).collect();
    Some(leaf(Value::Bool(true), rule, inputs))
}

fn node_id(stack: &Stack<'_>, hostname: Option<&str>) -> Option<Leaf> {
    if !stack.text("cluster.nodeID").trim().is_empty() {
        return None;
    }
    let name = hostname.map(|name| name.trim().to_lowercase()).filter(|name| !name.is_empty());
    let rule = if name.is_some() { "the host name" } else { "there is no host name" };
    Some(leaf(Value::Text(name.unwrap_or_else(|| NAMELESS_NODE.to_owned())), rule.to_owned(), Vec::new()))
}

/// A value that is another's unless it is set.
fn follow(stack: &Stack<'_>, key: &str, other: &str) -> Option<Leaf> {
    if stack.winner(key).is_some() {
        return None;
    }
    let value = stack.winner(other)?.value.clone();
    let rule = format!("{other} = {value}");
    Some(leaf(value, rule, vec![input(stack, other)]))
}

fn leaf(value: Value, rule: String, inputs: Vec<Input>) -> Leaf {
    Leaf { value, origin: Origin::Derived { rule, inputs }, span: None }
}

fn input(stack: &Stack<'_>, key: &str) -> Input {
    let winner = stack.winner(key);
    Input {
        key: key.to_owned(),
        value: winner.map(|leaf| leaf.value.clone()),
        origin: winner.map_or(Origin::Builtin, |leaf| leaf.origin.clone()),
    }
}
