# Prints what zsh offers at the end of the line $1, one word a line; $2 is a directory to work in, which has _cloacinactl.
# zsh completes at a terminal only, so a shell that is typed to runs in one, and what it would add is written down.
zmodload zsh/zpty
cat >"$2/setup" <<'SETUP'
PROMPT=
fpath=($ZSH_PROBE_DIRECTORY $fpath)
autoload -Uz compinit
compinit -u -D
compadd() {
    local -a hits
    # With these it adds nothing, it only filters.
    if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then
        builtin compadd "$@"
        return
    fi
    builtin compadd -A hits "$@"
    ((${#hits})) && print -rl -- $hits >>$ZSH_PROBE_DIRECTORY/offered
    builtin compadd "$@"
}
probe() {
    _main_complete
    print DONE
}
zle -C probe complete-word probe
bindkey '^I' probe
print READY
SETUP
export ZSH_PROBE_DIRECTORY=$2
: >"$2/offered"
zpty shell zsh -f -i
zpty -w shell 'source $ZSH_PROBE_DIRECTORY/setup'
zpty -r shell said '*READY*'
zpty -w -n shell "$1"$'\t'
zpty -r shell said '*DONE*'
zpty -d shell
cat "$2/offered"
