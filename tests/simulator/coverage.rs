//! Which situations a run has met: a simulator that meets none of them proves nothing.

macro_rules! situations {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Something worth meeting.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Situation {
            $($(#[$doc])* $name,)*
        }

        impl Situation {
            pub(crate) const ALL: &[Situation] = &[$(Situation::$name,)*];
        }
    };
}

situations! {
    /// A primary lost its backup and won.
    PrimaryWentAlone,
    /// A backup won and went live.
    BackupTookOver,
    /// Both members had sent a claim.
    BothClaimed,
    /// A claim was lost by the primary.
    PrimaryLost,
    /// A claim, or the read before it, told a backup that the primary has won.
    BackupLost,
    /// A broken channel was resumed.
    Resumed,
    /// A resume was refused.
    ResumeRefused,
    /// A silent backup came back on the same channel.
    SilenceEnded,
    /// A hand-over ended on the other node.
    HandedOver,
    /// Whoever was to take over did not: the primary ran on.
    HandOverFailed,
    /// The VM was stopped and both know.
    Stopped,
    /// A VM was stopped that ran alone.
    StoppedAlone,
    /// A question to the arbiter stayed without an answer.
    UnknownAnswer,
    /// A claim took effect although its asker was told nothing.
    ClaimWonUnheard,
    /// A question took effect after its asker had given up waiting for it.
    LateEffect,
    /// A primary noticed a pause of its own.
    OwnPause,
    /// A pause ended after the other node had gone live.
    WokeAsLoser,
    /// An output reached the wire from a node that had lost already (FAIL-9's bounded window).
    SpokeInTheWindow,
    /// An acknowledgement was withheld for want of credit.
    CreditWithheld,
    /// A channel was resumed while an acknowledgement was withheld.
    ResumedWithoutCredit,
    /// The primary was slowed.
    SlowedDown,
    /// The vCPU waited because a buffer was full.
    VcpuWaited,
    /// Outputs waited at the gate while the guest ran.
    GateHeld,
    /// A backup that went live sent kept outputs.
    KeptSent,
    /// A kept output was seen twice.
    SeenTwice,
    /// Outputs waited for the wire when their node lost.
    LostWithOutputs,
    /// A kept output was seen for the first time: the dead primary had swallowed it.
    KeptSaved,
    /// A node went live between two marks of one position.
    LiveAmidPosition,
    /// A divergence was noticed.
    Diverged,
    /// A primary heard of its backup's divergence and claimed.
    DivergenceHeard,
    /// A probe was refused.
    ProbeRefused,
    /// A probe was accepted.
    ProbeAccepted,
    /// A probe got no answer.
    ProbeUnanswered,
    /// The gateway refused a frame of a lower token.
    StaleRefused,
    /// The gateway repeated frames when the port moved.
    FramesRepeated,
    /// A client got an answer twice.
    AnsweredAgain,
    /// An operator got an answer.
    OperatorAnswered,
    /// A second run of the VM was refused.
    SecondRunRefused,
    /// A restarted node was turned away.
    RestartRefused,
    /// The primary went away before the guest ever ran.
    NeverStarted,
    /// A backup went live that had not got a single entry.
    LiveFromTheStart,
    /// A process died between two effects.
    DiedAmidEffects,
    /// A run without any failure.
    Quiet,
}

/// How often each situation was met.
#[derive(Clone, Debug)]
pub(crate) struct Coverage([u64; Situation::ALL.len()]);

impl Default for Coverage {
    fn default() -> Self {
        Coverage([0; Situation::ALL.len()])
    }
}

impl Coverage {
    pub(crate) fn met(&mut self, situation: Situation) {
        self.0[situation as usize] += 1;
    }

    pub(crate) fn count(&self, situation: Situation) -> u64 {
        self.0[situation as usize]
    }

    /// Adds another run: in how many runs each situation was met.
    pub(crate) fn add_run(&mut self, run: &Coverage) {
        for (sum, count) in self.0.iter_mut().zip(run.0) {
            *sum += u64::from(count > 0);
        }
    }

    pub(crate) fn add(&mut self, other: &Coverage) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum += count;
        }
    }

    pub(crate) fn missing(&self) -> Vec<Situation> {
        let never = |situation: &Situation| self.count(*situation) == 0;
        Situation::ALL.iter().copied().filter(never).collect()
    }
}
