//! A table as we want it, in nft's own JSON schema, before it is loaded.

use std::borrow::Cow;
use std::collections::HashSet;

use nftables::schema::{
    Chain, Counter, NfListObject, Rule, Set, SetFlag, SetType, SetTypeValue, Table,
};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::dsl::{Expr, Stmt};

/// Where a base chain is attached.
#[derive(Debug, Clone, Copy)]
pub struct Hook {
    pub kind: NfChainType,
    pub point: NfHook,
    pub priority: i32,
    pub policy: NfChainPolicy,
}

/// All objects of one table, in the order in which they must be created.
#[derive(Debug, Clone)]
pub struct TableSpec {
    pub family: NfFamily,
    pub name: &'static str,
    pub objects: Vec<NfListObject<'static>>,
}

impl TableSpec {
    pub fn new(family: NfFamily, name: &'static str) -> Self {
        let table = Table { family, name: name.into(), handle: None };
        Self { family, name, objects: vec![NfListObject::Table(table)] }
    }

    pub fn counter(&mut self, name: &str) {
        self.objects.push(NfListObject::Counter(Counter {
            family: self.family,
            table: self.name.into(),
            name: name.to_owned().into(),
            handle: None,
            packets: None,
            bytes: None,
        }));
    }

    pub fn set(&mut self, name: &str, types: &[SetType], interval: bool, elements: Vec<Expr>) {
        let set_type = match types {
            [single] => SetTypeValue::Single(*single),
            several => SetTypeValue::Concatenated(Cow::Owned(several.to_vec())),
        };
        self.objects.push(NfListObject::Set(Box::new(Set {
            family: self.family,
            table: self.name.into(),
            name: name.to_owned().into(),
            handle: None,
            set_type,
            policy: None,
            flags: interval.then(|| HashSet::from([SetFlag::Interval])),
            // nft refuses an empty element list; a set without one is simply empty.
            elem: (!elements.is_empty()).then_some(Cow::Owned(elements)),
            timeout: None,
            gc_interval: None,
            size: None,
            comment: None,
        })));
    }

    pub fn chain(&mut self, name: &str) {
        let chain = self.plain_chain(name);
        self.objects.push(NfListObject::Chain(chain));
    }

    pub fn base_chain(&mut self, name: &str, at: Hook, device: Option<&str>) {
        let mut chain = self.plain_chain(name);
        chain._type = Some(at.kind);
        chain.hook = Some(at.point);
        chain.prio = Some(at.priority);
        chain.policy = Some(at.policy);
        chain.dev = device.map(|device| device.to_owned().into());
        self.objects.push(NfListObject::Chain(chain));
    }

    pub fn rule(&mut self, chain: &str, statements: impl Into<Vec<Stmt>>) {
        self.objects.push(NfListObject::Rule(Rule {
            family: self.family,
            table: self.name.into(),
            chain: chain.to_owned().into(),
            expr: Cow::Owned(statements.into()),
            handle: None,
            index: None,
            comment: None,
        }));
    }

    fn plain_chain(&self, name: &str) -> Chain<'static> {
        Chain {
            family: self.family,
            table: self.name.into(),
            name: name.to_owned().into(),
            newname: None,
            handle: None,
            _type: None,
            hook: None,
            prio: None,
            dev: None,
            policy: None,
        }
    }
}
