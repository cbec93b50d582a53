//! What the manual's overview says beyond the definitions, in roff.

pub const DESCRIPTION: &str = r#".SH DESCRIPTION
Infinit turns a few machines into one storage cluster.
Each machine runs a node
.RB ( "infinit node run" )
that contributes directories, called silos.
A volume is a block device whose blocks are kept in several copies, on silos of different nodes.
One node at a time has it attached, writes it and serves it to NBD clients; when that node or another dies, no answered
write is lost.
There is no master to install and nothing else to run.
.PP
The command line talks to the daemon of its machine through a socket in its home.
What a script wants goes to standard output alone; what was done, hints and progress go to standard error.
Sizes read 20GiB, 512MiB, 1TB; times read 30s, 1h, 7d.
With
.B \-\-output json
results are JSON: sizes in bytes, times in RFC 3339, ids under
.BR id ,
names under
.BR name .
Errors then are one line of JSON on standard error, with
.BR kind ,
.B message
and, where something mends it,
.BR hint .
"#;

pub const SECTIONS: &str = r#".SH EXIT STATUS
.TP
.B 0
Done.
.TP
.B 1
Failed.
.TP
.B 2
Wrong usage.
.TP
.B 3
There is no such thing.
.TP
.B 4
Already there, or in use.
.TP
.B 5
Not reachable, or no quorum.
.TP
.B 6
Refused: no permission, or fenced.
.TP
.B 7
Timed out.
.SH ENVIRONMENT
.TP
.B INFINIT_HOME
The home, unless
.B \-\-home
is given.
.TP
.B INFINIT_LOG
What
.B infinit node run
logs, like
.B infinit=debug,warn
(the default is
.BR infinit=info,warn ).
.TP
.B NO_COLOR
If set and not empty, nothing is colored.
.TP
.BR XDG_DATA_HOME ", " HOME
Where the home of a user other than root is.
.SH FILES
.TP
.I /var/lib/infinit
The home of root's daemon.
.TP
.IR $XDG_DATA_HOME/infinit ", " ~/.local/share/infinit
The home of another user's daemon.
.TP
.I control.sock
In the home: the control API, HTTP with JSON.
.TP
.I silo/
In the home: the silo of a node that was given no other.
.SH NETWORK
Nodes listen on TCP port 7420
.RB ( \-\-listen )
and on one more that they choose for finding each other.
A node that others cannot dial, behind NAT or a firewall, is reached by connections that it opens itself, as long as it can
dial a member; two such nodes reach each other through a third that both can dial, which passes on what it cannot read.
.B infinit doctor
says which way the others reach this node.
.SH EXAMPLES
See what it does, on this machine alone:
.PP
.RS 4
.EX
infinit demo
.EE
.RE
.PP
A cluster of three machines:
.PP
.RS 4
.EX
host\-a$ infinit network create prod
host\-a$ infinit node run \-\-silo /data &
host\-a$ infinit network invite
host\-b$ infinit network join \fITOKEN\fR
host\-b$ infinit node run \-\-silo /data &
host\-c$ infinit network join \fITOKEN\fR
host\-c$ infinit node run \-\-silo /data &
.EE
.RE
.PP
A volume of three copies, attached to this machine and used by an NBD client:
.PP
.RS 4
.EX
infinit volume create pg \-\-size 20GiB
uri=$(infinit volume attach pg)
nbdinfo "$uri"
.EE
.RE
.PP
The control API without the command line:
.PP
.RS 4
.EX
curl \-\-unix\-socket /var/lib/infinit/control.sock http://localhost/v1/status
.EE
.RE
.SH SEE ALSO
.BR infinit\-network (1),
.BR infinit\-node (1),
.BR infinit\-volume (1),
.BR infinit\-status (1),
.BR nbdinfo (1)
"#;

pub const SEE_ALSO: &str = r#".SH SEE ALSO
.BR infinit (1)
for the global options, exit status, environment, files and examples.
"#;
