# Completions of cloacinactl for bash, as `cloacinactl completions bash` prints them.
# shellcheck shell=bash
_cloacinactl() {
    local current=${COMP_WORDS[COMP_CWORD]} flag=${COMP_WORDS[COMP_CWORD - 1]} kind=flag place='' word
    local -i index operands=0
    local -a choices=() flags=()
    for ((index = 1; index < COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        case $word in
        # bash takes words apart here: what follows goes on with what stands before.
        = | :) index+=1 ;;
        @FLAGS_WITH_VALUE@) [ "${COMP_WORDS[index + 1]}" = '=' ] || index+=1 ;;
        -*) ;;
        *)
            word=${place:+$place }$word
            case $word in
            @PLACES@) place=$word ;;
            *) operands+=1 ;;
            esac
            ;;
        esac
    done
    if [ "$current" = '=' ]; then
        current=''
    elif [ "$flag" = '=' ]; then
        flag=${COMP_WORDS[COMP_CWORD - 2]}
    fi

    case $place:$operands in
@OPERANDS@
    esac
    case $place in
@FLAGS@
    esac
    case $current in -*) kind=flag ;; esac
    case $flag in
@VALUES@
    esac

    case $kind in
    flag) mapfile -t COMPREPLY < <(compgen -W "${flags[*]}" -- "$current") ;;
    choice) mapfile -t COMPREPLY < <(compgen -W "${choices[*]}" -- "$current") ;;
    file) mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
    directory) mapfile -t COMPREPLY < <(compgen -d -- "$current") ;;
    *) COMPREPLY=() ;;
    esac
    # A directory gets its slash, and what is odd in a name its backslashes.
    case $kind in file | directory) compopt -o filenames 2>/dev/null || : ;; esac
}
complete -F _cloacinactl cloacinactl
