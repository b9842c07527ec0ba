#compdef cloacinactl
# Completions of cloacinactl for zsh, as `cloacinactl completions zsh` prints them.
_cloacinactl() {
    local flag=${words[CURRENT - 1]} kind=flag place='' word
    local -i index operands=0
    local -a choices flags
    for ((index = 2; index < CURRENT; index++)); do
        word=${words[index]}
        case $word in
        (@FLAGS_WITH_VALUE@) ((index += 1)) ;;
        (-*) ;;
        (*)
            word=${place:+$place }$word
            case $word in
            (@PLACES@) place=$word ;;
            (*) ((operands += 1)) ;;
            esac
            ;;
        esac
    done

    case $place:$operands in
@OPERANDS@
    esac
    case $place in
@FLAGS@
    esac
    case $PREFIX in
    (--*=*)
        flag=${PREFIX%%=*}
        compset -P 1 '*='
        kind=nothing
        ;;
    (-*) kind=flag ;;
    esac
    case $flag in
@VALUES@
    esac

    case $kind in
    (flag) _describe -o 'flag' flags ;;
    (choice) _describe 'choice' choices ;;
    (file) _files ;;
    (directory) _files -/ ;;
    esac
}
# Loaded from $fpath this is the function's body, sourced it is a definition.
if [ "${funcstack[1]}" = _cloacinactl ]; then
    _cloacinactl "$@"
else
    compdef _cloacinactl cloacinactl
fi
