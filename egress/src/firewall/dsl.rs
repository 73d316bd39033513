//! The few nft expressions that our rules are made of, each as a function that reads like nft.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use nftables::expr::{
    BinaryOperation, CT, CTDir, Expression, Exthdr, Meta, MetaKey, NamedExpression, Payload,
    PayloadField, Prefix, SetItem,
};
use nftables::stmt::{Counter, JumpTarget, Mangle, Match, Operator, Reject, RejectType, Statement};
use nftables::types::RejectCode;

pub type Expr = Expression<'static>;
pub type Stmt = Statement<'static>;

pub fn text(text: impl Into<Cow<'static, str>>) -> Expr {
    Expression::String(text.into())
}

pub fn any_of(items: impl IntoIterator<Item = Expr>) -> Expr {
    Expression::Named(NamedExpression::Set(items.into_iter().map(SetItem::Element).collect()))
}

pub fn numbers(items: &[u32]) -> Expr {
    any_of(items.iter().map(|number| Expression::Number(*number)))
}

pub fn prefix(net: IpNet) -> Expr {
    if net.prefix_len() == net.max_prefix_len() {
        return text(net.addr().to_string());
    }
    Expression::Named(NamedExpression::Prefix(Prefix {
        addr: Box::new(text(net.network().to_string())),
        len: u32::from(net.prefix_len()),
    }))
}

pub fn address_port(address: SocketAddr) -> Expr {
    concat([text(address.ip().to_string()), Expression::Number(u32::from(address.port()))])
}

pub fn concat(parts: impl IntoIterator<Item = Expr>) -> Expr {
    Expression::Named(NamedExpression::Concat(parts.into_iter().collect()))
}

pub fn meta(key: MetaKey) -> Expr {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

pub fn payload(protocol: &'static str, field: &'static str) -> Expr {
    let field = PayloadField { protocol: protocol.into(), field: field.into() };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

pub fn ct(key: &'static str, dir: Option<CTDir>) -> Expr {
    Expression::Named(NamedExpression::CT(CT { key: key.into(), family: None, dir }))
}

pub fn masked(value: Expr, mask: &'static str) -> Expr {
    Expression::BinaryOperation(Box::new(BinaryOperation::AND(value, text(mask))))
}

fn compare(op: Operator, left: Expr, right: Expr) -> Stmt {
    Statement::Match(Match { left, right, op })
}

pub fn is(left: Expr, right: Expr) -> Stmt {
    compare(Operator::EQ, left, right)
}

pub fn is_not(left: Expr, right: Expr) -> Stmt {
    compare(Operator::NEQ, left, right)
}

/// Member of the named set.
pub fn within(left: Expr, set: &str) -> Stmt {
    compare(Operator::EQ, left, text(format!("@{set}")))
}

pub fn out_by(interface: &str) -> Stmt {
    is(meta(MetaKey::Oifname), text(interface.to_owned()))
}

pub fn in_by(interface: &str) -> Stmt {
    is(meta(MetaKey::Iifname), text(interface.to_owned()))
}

pub fn marked(fwmark: u32) -> Stmt {
    is(meta(MetaKey::Mark), Expression::Number(fwmark))
}

pub fn l4(protocol: &'static str) -> Stmt {
    is(meta(MetaKey::L4proto), text(protocol))
}

pub fn port(protocol: &'static str, field: &'static str, port: u32) -> Stmt {
    is(payload(protocol, field), Expression::Number(port))
}

pub fn set_mark(key: Expr, value: Expr) -> Stmt {
    Statement::Mangle(Mangle { key, value })
}

pub fn count(counter: &str) -> Stmt {
    Statement::Counter(Counter::Named(counter.to_owned().into()))
}

pub fn jump(chain: &str) -> Stmt {
    Statement::Jump(JumpTarget { target: chain.to_owned().into() })
}

pub fn accept() -> Stmt {
    Statement::Accept(None)
}

pub fn drop() -> Stmt {
    Statement::Drop(None)
}

pub fn reset_tcp() -> Stmt {
    Statement::Reject(Some(Reject::new(Some(RejectType::TCPReset), None)))
}

pub fn prohibit() -> Stmt {
    Statement::Reject(Some(Reject::new(Some(RejectType::ICMPX), Some(RejectCode::AdminProhibited))))
}

/// Not the first fragment of a packet.
pub fn later_fragment4() -> Stmt {
    let offset = Expression::BinaryOperation(Box::new(BinaryOperation::AND(
        payload("ip", "frag-off"),
        Expression::Number(0x1fff),
    )));
    is_not(offset, Expression::Number(0))
}

/// A fragment, the first one too: IPv6 says it in a header of its own.
pub fn any_fragment6() -> Stmt {
    let header = Exthdr { name: "frag".into(), field: None, offset: None };
    is(Expression::Named(NamedExpression::Exthdr(header)), Expression::Boolean(true))
}

/// No SYN among the flags: no packet that opens a connection.
pub fn not_opening() -> Stmt {
    let syn = Expression::BinaryOperation(Box::new(BinaryOperation::AND(
        payload("tcp", "flags"),
        text("syn"),
    )));
    is(syn, Expression::Number(0))
}

/// `ip` or `ip6`, the header that holds this address.
pub fn header(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}
