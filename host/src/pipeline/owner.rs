use std::fmt;
use std::str::FromStr;

/// The process that runs a pipeline, told so that others can see whether it still does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    machine: String,
    process: u32,
    /// When the process began, in the kernel's own count: its number may be another's by now.
    began: u64,
}

impl Owner {
    /// This process.
    pub fn this_process() -> Self {
        let process = std::process::id();
        Self { machine: machine(), process, began: began(process).unwrap_or_default() }
    }

    /// Whether it may still be at it: of another machine's process nothing is known.
    pub fn may_live(&self) -> bool {
        self.machine != machine() || began(self.process) == Some(self.began)
    }

    /// What to call it in an error.
    pub fn description(&self) -> String {
        match self.machine == machine() {
            true => format!("process {}", self.process),
            false => format!(
                "process {} of the machine `{}`; if that is gone, say `--take-over`",
                self.process, self.machine
            ),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}/{}", self.process, self.began, self.machine)
    }
}

impl FromStr for Owner {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.splitn(3, '/');
        let process = parts.next().and_then(|part| part.parse().ok()).ok_or(())?;
        let began = parts.next().and_then(|part| part.parse().ok()).ok_or(())?;
        let machine = parts.next().ok_or(())?.to_owned();
        Ok(Self { machine, process, began })
    }
}

/// A name that changes with each start of the machine, after which none of its processes lives.
fn machine() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    format!("{name} {}", boot.trim().chars().take(8).collect::<String>())
}

/// When a process began, in ticks since the machine did; none where there is no such process.
fn began(process: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second field is the program's name, which may hold anything; the third follows its closing bracket.
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    // A process that nobody has waited for yet has ended all the same.
    let state = fields.next().filter(|state| *state != "Z")?;
    let _ = state;
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_others_do_not() {
        let owner = Owner::this_process();
        assert!(owner.may_live());
        assert_eq!(owner.to_string().parse(), Ok(owner.clone()));
        let earlier = Owner { began: owner.began.wrapping_sub(1), ..owner.clone() };
        assert!(!earlier.may_live(), "another process had the number");
        let elsewhere = Owner { machine: "elsewhere".to_owned(), process: 1, began: 0 };
        assert!(elsewhere.may_live());
        assert!(elsewhere.description().contains("--take-over"));
        assert_eq!("".parse::<Owner>(), Err(()));
        assert_eq!("1/2".parse::<Owner>(), Err(()));
    }

    #[test]
    fn a_process_that_has_ended_lives_no_more() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let began_at = began(child.id());
        child.wait().unwrap();
        let owner = Owner { machine: machine(), process: child.id(), began: began_at.unwrap_or(1) };
        assert!(!owner.may_live());
    }
}
