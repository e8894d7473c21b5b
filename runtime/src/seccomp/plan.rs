//! What a profile means for each ABI: for every call number one [`Decision`].
//!
//! In: the OCI profile. Out: one [`AbiPlan`] per ABI, plain data, from which `codegen` makes instructions.

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};

use super::SeccompError;
use super::abi::{self, Abi, Multiplexed};

use LinuxSeccompAction as Action;

/// Linux: `MAX_ERRNO` of linux/err.h; the kernel would cap a larger SECCOMP_RET_ERRNO value silently.
const MAX_ERRNO: u32 = 4095;
const ARGUMENTS: usize = 6;

/// The rules of one ABI.
#[derive(Debug)]
pub(super) struct AbiPlan {
    pub(super) abi: Abi,
    /// Value of SECCOMP_RET_* for a call without a decision.
    pub(super) default: u32,
    /// Ascending by call number; every number at most once.
    pub(super) decisions: Vec<(u32, Decision)>,
    /// Numbers above this one fail with ENOSYS; `None` if they get the default.
    pub(super) newest: Option<u32>,
}

/// The outcome for one system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// This SECCOMP_RET_* value whatever the arguments.
    Always(u32),
    /// The first clause that matches, else the default.
    When(Vec<Clause>),
}

/// Conditions that must all hold for the action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clause {
    pub(super) conditions: Vec<Condition>,
    pub(super) action: u32,
}

/// A comparison with one argument; the index is below 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) index: u32,
    pub(super) op: LinuxSeccompOperator,
    /// What to compare with; the mask for SCMP_CMP_MASKED_EQ.
    pub(super) value: u64,
    /// What the masked argument must be.
    pub(super) masked: u64,
}

/// Translates `profile` for a machine of `native`; the native ABI comes first.
pub(super) fn plan(native: Abi, profile: &LinuxSeccomp) -> Result<Vec<AbiPlan>, SeccompError> {
    refuse_notify(profile)?;
    let default = action_value(profile.default_action(), profile.default_errno_ret())?;
    let rules = profile.syscalls().as_deref().unwrap_or_default();
    let clauses = rules.iter().map(clauses_of).collect::<Result<Vec<_>, _>>()?;
    let calls = calls(rules, &clauses);
    let plan = |abi| plan_for(abi, &calls, default, refuses(profile.default_action()));
    Ok(abis(native, profile).into_iter().map(plan).collect())
}

/// One name of a rule, looked up.
#[derive(Debug)]
struct Call<'a> {
    numbers: Option<&'static [u32; 5]>,
    multiplexed: Option<Multiplexed>,
    clauses: &'a [Clause],
}

fn calls<'a>(rules: &[LinuxSyscall], clauses: &'a [Vec<Clause>]) -> Vec<Call<'a>> {
    let names = rules
        .iter()
        .zip(clauses)
        .flat_map(|(rule, clauses)| rule.names().iter().map(move |name| (name, clauses)));
    let call = |(name, clauses): (&String, &'a Vec<Clause>)| Call {
        numbers: abi::lookup(name),
        multiplexed: abi::multiplexed(name),
        clauses,
    };
    names.map(call).collect()
}

fn plan_for(abi: Abi, calls: &[Call<'_>], default: u32, hides_newer: bool) -> AbiPlan {
    let mut entries = Vec::with_capacity(calls.len());
    let newest = calls
        .iter()
        .filter_map(|call| collect(abi, call, default, &mut entries))
        .max();
    AbiPlan {
        abi,
        default,
        decisions: merge(entries),
        newest: newest.filter(|_| hides_newer),
    }
}

/// The listed ABIs after the native one, each once.
fn abis(native: Abi, profile: &LinuxSeccomp) -> Vec<Abi> {
    let mut abis = vec![native];
    for arch in profile.architectures().as_deref().unwrap_or_default() {
        match Abi::from_oci(*arch, native) {
            Some(abi) if !abis.contains(&abi) => abis.push(abi),
            _ => {}
        }
    }
    abis
}

/// Appends what the clauses of a call mean; returns the highest number that it has in this ABI.
fn collect(abi: Abi, call: &Call<'_>, default: u32, entries: &mut Vec<(u32, Clause)>) -> Option<u32> {
    let direct = call.numbers.and_then(|numbers| abi.number(numbers));
    let multiplexed = call.multiplexed.filter(|_| abi == Abi::X86);
    for clause in call.clauses.iter().filter(|clause| clause.action != default) {
        entries.extend(direct.map(|number| (number, clause.clone())));
        entries.extend(multiplexed.and_then(|call| through_multiplexer(call, clause)));
    }
    direct.max(multiplexed.map(|call| call.number))
}

/// The entry for `socketcall` or `ipc` on i386; see the module documentation of the parent.
fn through_multiplexer(call: Multiplexed, clause: &Clause) -> Option<(u32, Clause)> {
    if !clause.conditions.is_empty() && !refuses_value(clause.action) {
        return None;
    }
    let op = LinuxSeccompOperator::ScmpCmpMaskedEq;
    let selector = Condition {
        index: 0,
        op,
        value: call.mask,
        masked: call.selector,
    };
    Some((
        call.number,
        Clause {
            conditions: vec![selector],
            action: clause.action,
        },
    ))
}

/// Sorts by number, keeping the order of rules, and lets an unconditional clause swallow the others.
fn merge(mut entries: Vec<(u32, Clause)>) -> Vec<(u32, Decision)> {
    entries.sort_by_key(|(number, _)| *number);
    let mut decisions: Vec<(u32, Decision)> = Vec::with_capacity(entries.len());
    for (number, clause) in entries {
        let always = clause.conditions.is_empty().then_some(clause.action);
        match decisions.last_mut().filter(|(last, _)| *last == number) {
            Some((_, Decision::Always(_))) => {}
            Some((_, decision @ Decision::When(_))) if always.is_some() => {
                *decision = Decision::Always(clause.action);
            }
            Some((_, Decision::When(clauses))) => clauses.push(clause),
            None => decisions.push((
                number,
                always.map_or_else(|| Decision::When(vec![clause]), Decision::Always),
            )),
        }
    }
    decisions
}

/// One rule as clauses: one, or one per argument if two of them look at the same argument (as runc does).
fn clauses_of(rule: &LinuxSyscall) -> Result<Vec<Clause>, SeccompError> {
    if rule.names().iter().any(String::is_empty) {
        return Err(SeccompError::EmptyName);
    }
    let action = action_value(rule.action(), rule.errno_ret())?;
    let arguments = rule.args().as_deref().unwrap_or_default();
    let mut seen = [0_usize; ARGUMENTS];
    for argument in arguments {
        *seen
            .get_mut(argument.index())
            .ok_or_else(|| bad_index(rule, argument))? += 1;
    }
    let conditions: Vec<Condition> = arguments.iter().map(condition).collect();
    if seen.iter().any(|count| *count > 1) {
        return Ok(conditions
            .into_iter()
            .map(|one| Clause {
                conditions: vec![one],
                action,
            })
            .collect());
    }
    Ok(vec![Clause { conditions, action }])
}

fn condition(argument: &LinuxSeccompArg) -> Condition {
    Condition {
        index: argument.index() as u32,
        op: argument.op(),
        value: argument.value(),
        masked: argument.value_two().unwrap_or(0),
    }
}

fn bad_index(rule: &LinuxSyscall, argument: &LinuxSeccompArg) -> SeccompError {
    let name = rule.names().first().cloned().unwrap_or_default();
    SeccompError::ArgumentIndex {
        name,
        index: argument.index(),
    }
}

fn refuse_notify(profile: &LinuxSeccomp) -> Result<(), SeccompError> {
    let rules = profile.syscalls().as_deref().unwrap_or_default();
    let mut actions = rules
        .iter()
        .map(LinuxSyscall::action)
        .chain([profile.default_action()]);
    if actions.any(|action| action == Action::ScmpActNotify) {
        return Err(SeccompError::Notify("SCMP_ACT_NOTIFY"));
    }
    if profile.listener_path().is_some() {
        return Err(SeccompError::Notify("listenerPath"));
    }
    if profile.listener_metadata().is_some() {
        return Err(SeccompError::Notify("listenerMetadata"));
    }
    Ok(())
}

/// The SECCOMP_RET_* value; errno defaults to EPERM as in runc.
fn action_value(action: Action, errno: Option<u32>) -> Result<u32, SeccompError> {
    let limit = match action {
        Action::ScmpActErrno => MAX_ERRNO,
        Action::ScmpActTrace => u32::from(u16::MAX),
        _ if errno.is_some() => return Err(SeccompError::ErrnoNotAllowed(action)),
        _ => 0,
    };
    match errno {
        Some(errno) if errno > limit => Err(SeccompError::ErrnoOutOfRange(errno)),
        _ => Ok(action.as_u32(errno)),
    }
}

/// Whether a call that meets this default action should rather see ENOSYS when it is too new for the profile. A
/// tracer is expected to know new calls by itself (runc, seccomp/patchbpf).
fn refuses(action: Action) -> bool {
    !matches!(
        action,
        Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace
    )
}

/// Whether an action value stops the call.
fn refuses_value(action: u32) -> bool {
    ![Action::ScmpActAllow, Action::ScmpActLog]
        .iter()
        .any(|allowing| allowing.as_u32(None) == action)
}
