# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_infinit_global_optspecs
    string join \n home= network= output= q/quiet v/verbose no-color yes h/help V/version
end

function __fish_infinit_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_infinit_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_infinit_using_subcommand
    set -l cmd (__fish_infinit_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c infinit -n "__fish_infinit_needs_command" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_needs_command" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_needs_command" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_needs_command" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_needs_command" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_needs_command" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_needs_command" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_needs_command" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_needs_command" -s V -l version -d 'Print version'
complete -c infinit -n "__fish_infinit_needs_command" -f -a "network" -d 'Create, join and look at networks: clusters with keys of their own'
complete -c infinit -n "__fish_infinit_needs_command" -f -a "node" -d 'Run this machine\'s node and look at its fellows'
complete -c infinit -n "__fish_infinit_needs_command" -f -a "volume" -d 'Create volumes, attach them and see how they stand'
complete -c infinit -n "__fish_infinit_needs_command" -f -a "status" -d 'Show the network, its nodes and volumes, and what would mend what is wrong'
complete -c infinit -n "__fish_infinit_needs_command" -f -a "doctor" -d 'Check this machine and the way to the others, and say what to do about what is wrong'
complete -c infinit -n "__fish_infinit_needs_command" -f -a "demo" -d 'Run three nodes on this machine, kill one in the middle of a copy, and prove that nothing was lost'
complete -c infinit -n "__fish_infinit_needs_command" -f -a "completions" -d 'Print what completes this command line in a shell'
complete -c infinit -n "__fish_infinit_needs_command" -f -a "man" -d 'Print a manual page: infinit man | man -l -'
complete -c infinit -n "__fish_infinit_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c infinit -n "__fish_infinit_using_subcommand network; and not __fish_seen_subcommand_from create join invite list show set leave recover" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand network; and not __fish_seen_subcommand_from create join invite list show set leave recover" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand network; and not __fish_seen_subcommand_from create join invite list show set leave recover" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand network; and not __fish_seen_subcommand_from create join invite list show set leave recover" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand network; and not __fish_seen_subcommand_from create join invite list show set leave recover" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand network; and not __fish_seen_subcommand_from create join invite list show set leave recover" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand network; and not __fish_seen_subcommand_from create join invite list show set leave recover" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand network; and not __fish_seen_subcommand_from create join invite list show set leave recover" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand network; and not __fish_seen_subcommand_from create join invite list show set leave recover" -f -a "create" -d 'Create a network: its keys, and this machine as its first node'
complete -c infinit -n "__fish_infinit_using_subcommand network; and not __fish_seen_subcommand_from create join invite list show set leave recover" -f -a "join" -d 'Join a network with a token that `infinit network invite` printed'
complete -c infinit -n "__fish_infinit_using_subcommand network; and not __fish_seen_subcommand_from create join invite list show set leave recover" -f -a "invite" -d 'Print a token with which other machines join'
complete -c infinit -n "__fish_infinit_using_subcommand network; and not __fish_seen_subcommand_from create join invite list show set leave recover" -f -a "list" -d 'List the networks that this machine belongs to'
complete -c infinit -n "__fish_infinit_using_subcommand network; and not __fish_seen_subcommand_from create join invite list show set leave recover" -f -a "show" -d 'Show the network: its id, this machine\'s role, who votes'
complete -c infinit -n "__fish_infinit_using_subcommand network; and not __fish_seen_subcommand_from create join invite list show set leave recover" -f -a "set" -d 'Change what holds for the whole network'
complete -c infinit -n "__fish_infinit_using_subcommand network; and not __fish_seen_subcommand_from create join invite list show set leave recover" -f -a "leave" -d 'Leave the network: this machine\'s passport is revoked and its node stops'
complete -c infinit -n "__fish_infinit_using_subcommand network; and not __fish_seen_subcommand_from create join invite list show set leave recover" -f -a "recover" -d 'Go on with what this node knows after the majority of the voters is lost for good; its daemon must not run'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from create" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from create" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from create" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from create" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from create" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from create" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from create" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from create" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from join" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from join" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from join" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from join" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from join" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from join" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from join" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from join" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from invite" -l role -d 'Let them be this' -r -f -a "storage\t'Stores data and attaches volumes'
client\t'Attaches volumes and stores nothing'
admin\t'Does all that storage does, and may invite others'"
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from invite" -l expires -d 'Let the token expire after this time' -r
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from invite" -l uses -d 'Let so many machines join with it' -r
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from invite" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from invite" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from invite" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from invite" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from invite" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from invite" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from invite" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from invite" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from list" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from list" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from list" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from list" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from list" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from list" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from list" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from show" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from show" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from show" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from show" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from show" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from show" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from show" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from set" -l down-after -d 'Make the copies on a node or disk anew elsewhere once nobody has reached it for this time, 5s to 30d' -r
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from set" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from set" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from set" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from set" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from set" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from set" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from set" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from set" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from leave" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from leave" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from leave" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from leave" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from leave" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from leave" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from leave" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from leave" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from recover" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from recover" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from recover" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from recover" -l follow -d 'Forget what this node knows of the cluster instead: the network was recovered on another node that knew less'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from recover" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from recover" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from recover" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from recover" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand network; and __fish_seen_subcommand_from recover" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand node; and not __fish_seen_subcommand_from run wait list show drain remove stop install" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand node; and not __fish_seen_subcommand_from run wait list show drain remove stop install" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand node; and not __fish_seen_subcommand_from run wait list show drain remove stop install" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand node; and not __fish_seen_subcommand_from run wait list show drain remove stop install" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand node; and not __fish_seen_subcommand_from run wait list show drain remove stop install" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand node; and not __fish_seen_subcommand_from run wait list show drain remove stop install" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand node; and not __fish_seen_subcommand_from run wait list show drain remove stop install" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand node; and not __fish_seen_subcommand_from run wait list show drain remove stop install" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand node; and not __fish_seen_subcommand_from run wait list show drain remove stop install" -f -a "run" -d 'Run this machine\'s node in the foreground until it is told to stop'
complete -c infinit -n "__fish_infinit_using_subcommand node; and not __fish_seen_subcommand_from run wait list show drain remove stop install" -f -a "wait" -d 'Wait until this node has joined and the cluster has a quorum'
complete -c infinit -n "__fish_infinit_using_subcommand node; and not __fish_seen_subcommand_from run wait list show drain remove stop install" -f -a "list" -d 'List the nodes of the network'
complete -c infinit -n "__fish_infinit_using_subcommand node; and not __fish_seen_subcommand_from run wait list show drain remove stop install" -f -a "show" -d 'Show one node and its silos'
complete -c infinit -n "__fish_infinit_using_subcommand node; and not __fish_seen_subcommand_from run wait list show drain remove stop install" -f -a "drain" -d 'Empty a node: its copies go to the other nodes, and it gets no new ones'
complete -c infinit -n "__fish_infinit_using_subcommand node; and not __fish_seen_subcommand_from run wait list show drain remove stop install" -f -a "remove" -d 'Take a node out of the network: its passport counts no more, anywhere'
complete -c infinit -n "__fish_infinit_using_subcommand node; and not __fish_seen_subcommand_from run wait list show drain remove stop install" -f -a "stop" -d 'Stop this machine\'s node: detach its volumes, write everything out, end'
complete -c infinit -n "__fish_infinit_using_subcommand node; and not __fish_seen_subcommand_from run wait list show drain remove stop install" -f -a "install" -d 'Let systemd run this machine\'s node, now and at every start'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from run" -l silo -d 'Store blocks in this directory, up to this capacity; may be given several times [default: silo/ in the home]' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from run" -l listen -d 'Listen on this address, or on that of this name, resolved at each start; port 0 picks a free port once and keeps it' -r
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from run" -l advertise -d 'Tell the others to reach this node at this address or name; they resolve it each time they connect' -r
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from run" -l zone -d 'Say what this node fails together with, as a rack or a room; copies are spread over zones; \'\' takes it back' -r
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from run" -l role -d 'Vote without storing anything, as the third of two storage nodes; or store again [default: storage]' -r -f -a "storage\t''
witness\t''"
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from run" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from run" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from run" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from run" -l no-mdns -d 'Do not look for peers on the local network by multicast'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from run" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from run" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from run" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from run" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from run" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from wait" -l timeout -d 'Give up after this time' -r
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from wait" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from wait" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from wait" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from wait" -l copies -d 'Wait until no attached volume lacks a copy that is up to date, too'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from wait" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from wait" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from wait" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from wait" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from wait" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from list" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from list" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from list" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from list" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from list" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from list" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from list" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from show" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from show" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from show" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from show" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from show" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from show" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from show" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from drain" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from drain" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from drain" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from drain" -l wait -d 'Return once it is empty'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from drain" -l cancel -d 'Let it hold copies again; what has moved already comes back only as far as its share'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from drain" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from drain" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from drain" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from drain" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from drain" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from remove" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from remove" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from remove" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from remove" -l dead -d 'It is lost for good: make its copies anew from the others, without waiting for it'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from remove" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from remove" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from remove" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from remove" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from remove" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from stop" -l timeout -d 'Give up waiting after this time' -r
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from stop" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from stop" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from stop" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from stop" -l keep-attached -d 'Leave its volumes attached, for a restart: clients that connect again go on'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from stop" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from stop" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from stop" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from stop" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from stop" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from install" -l silo -d 'Store blocks in this directory, up to this capacity; may be given several times [default: silo/ in the home]' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from install" -l listen -d 'Listen on this address, or on that of this name, resolved at each start; port 0 picks a free port once and keeps it' -r
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from install" -l advertise -d 'Tell the others to reach this node at this address or name; they resolve it each time they connect' -r
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from install" -l zone -d 'Say what this node fails together with, as a rack or a room; copies are spread over zones; \'\' takes it back' -r
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from install" -l role -d 'Vote without storing anything, as the third of two storage nodes; or store again [default: storage]' -r -f -a "storage\t''
witness\t''"
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from install" -l unit-dir -d 'Write the unit to this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from install" -l binary -d 'Run this binary [default: this one]' -r -F
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from install" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from install" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from install" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from install" -l no-mdns -d 'Do not look for peers on the local network by multicast'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from install" -l print -d 'Print the unit and change nothing'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from install" -l no-start -d 'Write the unit and do not start it'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from install" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from install" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from install" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from install" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand node; and __fish_seen_subcommand_from install" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and not __fish_seen_subcommand_from create list status attach detach set scrub recover delete" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand volume; and not __fish_seen_subcommand_from create list status attach detach set scrub recover delete" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand volume; and not __fish_seen_subcommand_from create list status attach detach set scrub recover delete" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand volume; and not __fish_seen_subcommand_from create list status attach detach set scrub recover delete" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and not __fish_seen_subcommand_from create list status attach detach set scrub recover delete" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and not __fish_seen_subcommand_from create list status attach detach set scrub recover delete" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and not __fish_seen_subcommand_from create list status attach detach set scrub recover delete" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and not __fish_seen_subcommand_from create list status attach detach set scrub recover delete" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and not __fish_seen_subcommand_from create list status attach detach set scrub recover delete" -f -a "create" -d 'Create a volume; it takes space as it is written'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and not __fish_seen_subcommand_from create list status attach detach set scrub recover delete" -f -a "list" -d 'List the volumes of the network'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and not __fish_seen_subcommand_from create list status attach detach set scrub recover delete" -f -a "status" -d 'Show how a volume stands: where it is attached, its copies, what would mend it'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and not __fish_seen_subcommand_from create list status attach detach set scrub recover delete" -f -a "attach" -d 'Attach a volume to this node, which alone may then write it, and print the NBD URI'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and not __fish_seen_subcommand_from create list status attach detach set scrub recover delete" -f -a "detach" -d 'Detach a volume, wherever it is attached: its export closes, and another node may attach it'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and not __fish_seen_subcommand_from create list status attach detach set scrub recover delete" -f -a "set" -d 'Change what a volume is kept by, while it is in use'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and not __fish_seen_subcommand_from create list status attach detach set scrub recover delete" -f -a "scrub" -d 'Read and verify every copy of a volume, and repair what is damaged from another copy'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and not __fish_seen_subcommand_from create list status attach detach set scrub recover delete" -f -a "recover" -d 'Make a detached volume attachable again whose copies lost data, from what is left of it'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and not __fish_seen_subcommand_from create list status attach detach set scrub recover delete" -f -a "delete" -d 'Delete a volume and all it holds; it must not be attached'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from create" -l size -d 'Give it this size, a multiple of 4KiB up to 64TiB' -r
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from create" -l replicas -d 'Keep so many copies, 1 to 7, each on another node' -r
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from create" -l durability -d 'Say what an answered write means' -r -f -a "flush\t'A majority has it; a flush puts it on disk, as with any disk\'s own cache'
write\t'A majority has it on disk'"
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from create" -l lease -d 'Let a writer that vanished keep others out for this time' -r
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from create" -l io-timeout -d 'Let I/O fail after this time without a majority of the copies [default: it waits and goes on by itself]' -r
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from create" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from create" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from create" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from create" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from create" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from create" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from create" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from create" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from list" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from list" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from list" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from list" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from list" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from list" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from list" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from status" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from status" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from status" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from status" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from status" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from status" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from status" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from status" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from attach" -l nbd -d 'Serve NBD here [default: a Unix socket in the home]' -r
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from attach" -l timeout -d 'Give up after this time' -r
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from attach" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from attach" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from attach" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from attach" -l takeover -d 'Take it from the node it is attached to: at once if that answers, else once its lease has run out'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from attach" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from attach" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from attach" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from attach" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from attach" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from detach" -l timeout -d 'Give up after this time' -r
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from detach" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from detach" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from detach" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from detach" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from detach" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from detach" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from detach" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from detach" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from set" -l replicas -d 'Keep so many copies, 1 to 7, each on another node' -r
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from set" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from set" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from set" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from set" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from set" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from set" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from set" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from set" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from scrub" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from scrub" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from scrub" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from scrub" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from scrub" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from scrub" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from scrub" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from scrub" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from recover" -l timeout -d 'Give up after this time' -r
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from recover" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from recover" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from recover" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from recover" -l accept-loss -d 'Go on with what is left, even if answered and flushed writes are gone for good'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from recover" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from recover" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from recover" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from recover" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from recover" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from delete" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from delete" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from delete" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from delete" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from delete" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from delete" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from delete" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand volume; and __fish_seen_subcommand_from delete" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand status" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand status" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand status" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand status" -l watch -d 'Draw it anew every second until interrupted'
complete -c infinit -n "__fish_infinit_using_subcommand status" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand status" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand status" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand status" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand status" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand doctor" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand doctor" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand doctor" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand doctor" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand doctor" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand doctor" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand doctor" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c infinit -n "__fish_infinit_using_subcommand demo" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand demo" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand demo" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand demo" -l keep -d 'Leave the cluster running and say what to try next'
complete -c infinit -n "__fish_infinit_using_subcommand demo" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand demo" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand demo" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand demo" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand demo" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand completions" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand completions" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand completions" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand completions" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand completions" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand completions" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand completions" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand completions" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand man" -l dir -d 'Write all pages to this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand man" -l home -d 'Keep keys, state and the control socket in this directory' -r -f -a "(__fish_complete_directories)"
complete -c infinit -n "__fish_infinit_using_subcommand man" -l network -d 'Choose the network where this machine has several' -r
complete -c infinit -n "__fish_infinit_using_subcommand man" -l output -d 'Print tables for people or JSON for scripts' -r -f -a "table\t''
json\t''"
complete -c infinit -n "__fish_infinit_using_subcommand man" -s q -l quiet -d 'Print results and errors only'
complete -c infinit -n "__fish_infinit_using_subcommand man" -s v -l verbose -d 'Tell more; twice tells all'
complete -c infinit -n "__fish_infinit_using_subcommand man" -l no-color -d 'Print without colors, as the variable NO_COLOR does'
complete -c infinit -n "__fish_infinit_using_subcommand man" -l yes -d 'Answer yes where something is about to be destroyed'
complete -c infinit -n "__fish_infinit_using_subcommand man" -s h -l help -d 'Print help'
complete -c infinit -n "__fish_infinit_using_subcommand help; and not __fish_seen_subcommand_from network node volume status doctor demo completions man help" -f -a "network" -d 'Create, join and look at networks: clusters with keys of their own'
complete -c infinit -n "__fish_infinit_using_subcommand help; and not __fish_seen_subcommand_from network node volume status doctor demo completions man help" -f -a "node" -d 'Run this machine\'s node and look at its fellows'
complete -c infinit -n "__fish_infinit_using_subcommand help; and not __fish_seen_subcommand_from network node volume status doctor demo completions man help" -f -a "volume" -d 'Create volumes, attach them and see how they stand'
complete -c infinit -n "__fish_infinit_using_subcommand help; and not __fish_seen_subcommand_from network node volume status doctor demo completions man help" -f -a "status" -d 'Show the network, its nodes and volumes, and what would mend what is wrong'
complete -c infinit -n "__fish_infinit_using_subcommand help; and not __fish_seen_subcommand_from network node volume status doctor demo completions man help" -f -a "doctor" -d 'Check this machine and the way to the others, and say what to do about what is wrong'
complete -c infinit -n "__fish_infinit_using_subcommand help; and not __fish_seen_subcommand_from network node volume status doctor demo completions man help" -f -a "demo" -d 'Run three nodes on this machine, kill one in the middle of a copy, and prove that nothing was lost'
complete -c infinit -n "__fish_infinit_using_subcommand help; and not __fish_seen_subcommand_from network node volume status doctor demo completions man help" -f -a "completions" -d 'Print what completes this command line in a shell'
complete -c infinit -n "__fish_infinit_using_subcommand help; and not __fish_seen_subcommand_from network node volume status doctor demo completions man help" -f -a "man" -d 'Print a manual page: infinit man | man -l -'
complete -c infinit -n "__fish_infinit_using_subcommand help; and not __fish_seen_subcommand_from network node volume status doctor demo completions man help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c infinit -n "__fish_infinit_using_subcommand help; and __fish_seen_subcommand_from network" -f -a "create" -d 'Create a network: its keys, and this machine as its first node'
complete -c infinit -n "__fish_infinit_using_subcommand help; and __fish_seen_subcommand_from network" -f -a "join" -d 'Join a network with a token that `infinit network invite` printed'
complete -c infinit -n "__fish_infinit_using_subcommand help; and __fish_seen_subcommand_from network" -f -a "invite" -d 'Print a token with which other machines join'
complete -c infinit -n "__fish_infinit_using_subcommand help; and __fish_seen_subcommand_from network" -f -a "list" -d 'List the networks that this machine belongs to'
complete -c infinit -n "__fish_infinit_using_subcommand help; and __fish_seen_subcommand_from network" -f -a "show" -d 'Show the network: its id, this machine\'s role, who votes'
complete -c infinit -n "__fish_infinit_using_subcommand help; and __fish_seen_subcommand_from network" -f -a "set" -d 'Change what holds for the whole network'
complete -c infinit -n "__fish_infinit_using_subcommand help; and __fish_seen_subcommand_from network" -f -a "leave" -d 'Leave the network: this machine\'s passport is revoked and its node stops'
complete -c infinit -n "__fish_infinit_using_subcommand help; and __fish_seen_subcommand_from network" -f -a "recover" -d 'Go on with what this node knows after the majority of the voters is lost for good; its daemon must not run'
complete -c infinit -n "__fish_infinit_using_subcommand help; and __fish_seen_subcommand_from node" -f -a "run" -d 'Run this machine\'s node in the foreground until it is told to stop'
complete -c infinit -n "__fish_infinit_using_subcommand help; and __fish_seen_subcommand_from node" -f -a "wait" -d 'Wait until this node has joined and the cluster has a quorum'
complete -c infinit -n "__fish_infinit_using_subcommand help; and __fish_seen_subcommand_from node" -f -a "list" -d 'List the nodes of the network'
complete -c infinit -n "__fish_infinit_using_subcommand help; and __fish_seen_subcommand_from node" -f -a "show" -d 'Show one node and its silos'
complete -c infinit -n "__fish_infinit_using_subcommand help; and __fish_seen_subcommand_from node" -f -a "drain" -d 'Empty a node: its copies go to the other nodes, and it gets no new ones'
complete -c infinit -n "__fish_infinit_using_subcommand help; and __fish_seen_subcommand_from node" -f -a "remove" -d 'Take a node out of the network: its passport counts no more, anywhere'
complete -c infinit -n "__fish_infinit_using_subcommand help; and __fish_seen_subcommand_from node" -f -a "stop" -d 'Stop this machine\'s node: detach its volumes, write everything out, end'
complete -c infinit -n "__fish_infinit_using_subcommand help; and __fish_seen_subcommand_from node" -f -a "install" -d 'Let systemd run this machine\'s node, now and at every start'
complete -c infinit -n "__fish_infinit_using_subcommand help; and __fish_seen_subcommand_from volume" -f -a "create" -d 'Create a volume; it takes space as it is written'
complete -c infinit -n "__fish_infinit_using_subcommand help; and __fish_seen_subcommand_from volume" -f -a "list" -d 'List the volumes of the network'
complete -c infinit -n "__fish_infinit_using_subcommand help; and __fish_seen_subcommand_from volume" -f -a "status" -d 'Show how a volume stands: where it is attached, its copies, what would mend it'
complete -c infinit -n "__fish_infinit_using_subcommand help; and __fish_seen_subcommand_from volume" -f -a "attach" -d 'Attach a volume to this node, which alone may then write it, and print the NBD URI'
complete -c infinit -n "__fish_infinit_using_subcommand help; and __fish_seen_subcommand_from volume" -f -a "detach" -d 'Detach a volume, wherever it is attached: its export closes, and another node may attach it'
complete -c infinit -n "__fish_infinit_using_subcommand help; and __fish_seen_subcommand_from volume" -f -a "set" -d 'Change what a volume is kept by, while it is in use'
complete -c infinit -n "__fish_infinit_using_subcommand help; and __fish_seen_subcommand_from volume" -f -a "scrub" -d 'Read and verify every copy of a volume, and repair what is damaged from another copy'
complete -c infinit -n "__fish_infinit_using_subcommand help; and __fish_seen_subcommand_from volume" -f -a "recover" -d 'Make a detached volume attachable again whose copies lost data, from what is left of it'
complete -c infinit -n "__fish_infinit_using_subcommand help; and __fish_seen_subcommand_from volume" -f -a "delete" -d 'Delete a volume and all it holds; it must not be attached'
