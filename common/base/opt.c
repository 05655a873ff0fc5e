/* opt.c - options: one table parses, checks, prints --help and writes down what was used
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include "opt.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "err.h"
#include "file.h"
#include "meter.h"
#include "out.h"
#include "version.h"

int parse_real(const char *s, double *value)
{
    char *end;
    errno = 0;
    double x = strtod(s, &end);
    if (end == s || *end || isspace((unsigned char)*s) || !isfinite(x))
        return -1;
    *value = x;
    return 0;
}

int parse_int(const char *s, int64_t *value)
{
    char *end;
    errno = 0;
    long long x = strtoll(s, &end, 10);
    if (end == s || errno || isspace((unsigned char)*s))
        return -1;
    int64_t unit = 1;
    if (*end) {
        const char *k = strchr("kKMGT", *end);
        int power = !k ? 0 : *k == 'k' || *k == 'K' ? 1 : (int)(k - "kKMGT");
        bool binary = end[1] == 'i' && !end[2];
        if (!power || (end[1] && !binary))
            return -1;
        while (power--)
            unit *= binary ? 1024 : 1000;
    }
    int64_t v;
    if (__builtin_mul_overflow((int64_t)x, unit, &v))
        return -1;
    *value = v;
    return 0;
}

struct opt *opt_find(struct opt *opts, const char *name)
{
    for (struct opt *o = opts; o->kind; o++)
        if (strcmp(o->name, name) == 0)
            return o;
    return NULL;
}

/* Index of `text` among "a|b|c", or -1. */
static int choice_index(const char *choices, const char *text)
{
    size_t n = strlen(text);
    int index = 0;
    for (const char *c = choices; c; index++) {
        const char *bar = strchr(c, '|');
        size_t len = bar ? (size_t)(bar - c) : strlen(c);
        if (len == n && memcmp(c, text, n) == 0)
            return index;
        c = bar ? bar + 1 : NULL;
    }
    return -1;
}

static int check_range(const struct opt *o, const char *text, double x)
{
    if (x < o->lo)
        return err_set("'%s' of '%s' is below %.15g", text, o->name, o->lo);
    if (x > o->hi)
        return err_set("'%s' of '%s' is above %.15g", text, o->name, o->hi);
    return 0;
}

int opt_try_set(struct opt *o, const char *text)
{
    switch (o->kind) {
    case OPT_KIND_FLAG: {
        int yes = choice_index("false|true", text);
        if (yes < 0)
            return err_set("'%s' of '%s' is neither true nor false", text, o->name);
        *(bool *)o->value = yes;
        return 0;
    }
    case OPT_KIND_INT: {
        int64_t v;
        if (parse_int(text, &v) < 0)
            return err_set("'%s' of '%s' is not a whole number", text, o->name);
        if (check_range(o, text, (double)v) < 0)
            return -1;
        *(int64_t *)o->value = v;
        return 0;
    }
    case OPT_KIND_REAL: {
        double v;
        if (parse_real(text, &v) < 0)
            return err_set("'%s' of '%s' is not a finite number", text, o->name);
        if (check_range(o, text, v) < 0)
            return -1;
        *(double *)o->value = v;
        return 0;
    }
    case OPT_KIND_STR:
        *(const char **)o->value = xstrdup(text); /* lives as long as the process */
        return 0;
    case OPT_KIND_CHOICE: {
        int i = choice_index(o->choices, text);
        if (i < 0)
            return err_set("'%s' of '%s' is none of %s", text, o->name, o->choices);
        *(int *)o->value = i;
        return 0;
    }
    case OPT_KIND_END:
        break;
    }
    bug("option table: kind %d", o->kind);
}

void format_real(double x, struct buf *out)
{
    char s[40];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(s, sizeof s, "%.*g", digits, x);
        if (strtod(s, NULL) == x)
            break;
    }
    buf_addf(out, "%s", s);
}

void opt_format(const struct opt *o, struct buf *out)
{
    switch (o->kind) {
    case OPT_KIND_FLAG:
        buf_addf(out, "%s", *(const bool *)o->value ? "true" : "false");
        break;
    case OPT_KIND_INT:
        buf_addf(out, "%lld", (long long)*(const int64_t *)o->value);
        break;
    case OPT_KIND_REAL:
        format_real(*(const double *)o->value, out);
        break;
    case OPT_KIND_STR: {
        const char *s = *(const char *const *)o->value;
        buf_addf(out, "%s", s ? s : "");
        break;
    }
    case OPT_KIND_CHOICE: {
        const char *c = o->choices;
        for (int i = *(const int *)o->value; i > 0; i--)
            c = strchr(c, '|') + 1;
        buf_add(out, c, strcspn(c, "|"));
        break;
    }
    case OPT_KIND_END:
        break;
    }
}

void opt_write(const struct opt *opts, struct buf *out)
{
    for (const struct opt *o = opts; o->kind; o++) {
        if (o->kind == OPT_KIND_STR && !*(const char *const *)o->value)
            continue;
        buf_addf(out, "%s = ", o->name);
        opt_format(o, out);
        buf_add(out, "\n", 1);
    }
}

/* ---- config files ---- */

static char *trim(char *s)
{
    while (isspace((unsigned char)*s))
        s++;
    char *end = s + strlen(s);
    while (end > s && isspace((unsigned char)end[-1]))
        *--end = '\0';
    return s;
}

static int config_line(struct opt *opts, char *line, bool *seen)
{
    char *hash = strchr(line, '#');
    if (hash)
        *hash = '\0';
    char *key = trim(line);
    if (!*key)
        return 0;
    char *eq = strchr(key, '=');
    if (!eq)
        return err_set("'%s' is not 'name = value'", key);
    *eq = '\0';
    char *value = trim(eq + 1);
    key = trim(key);
    struct opt *o = opt_find(opts, key);
    if (!o)
        return err_set("unknown key '%s'", key);
    if (seen[o - opts])
        return err_set("key '%s' stands here twice", key);
    seen[o - opts] = true;
    if (o->set_by == 2)
        return 0; /* the command line has the last word */
    if (!*value)
        return err_set("key '%s' has no value", key);
    if (opt_try_set(o, value) < 0)
        return -1;
    o->set_by = 1;
    return 0;
}

int opt_try_read_text(struct opt *opts, const char *path, const char *text)
{
    size_t rows = 0;
    while (opts[rows].kind)
        rows++;
    bool *seen = xcalloc(rows, sizeof *seen);
    int rc = 0, number = 0;
    for (const char *s = text; *s && rc == 0;) {
        size_t n = strcspn(s, "\n");
        char *line = xasprintf("%.*s", (int)n, s);
        number++;
        if (config_line(opts, line, seen) < 0)
            rc = err_set("%s:%d: %s", path, number, err_last());
        free(line);
        s += n + (s[n] == '\n');
    }
    free(seen);
    return rc;
}

int opt_try_read_file(struct opt *opts, const char *path)
{
    FILE *f = fopen(path, "r");
    if (!f)
        return err_set("cannot open '%s': %s", path, strerror(errno));
    struct buf text = { 0 };
    bool bad = file_slurp(f, 1 << 20, &text) < 0;
    int e = errno;
    fclose(f);
    buf_add(&text, "", 0);
    int rc;
    if (bad)
        rc = err_set("cannot read '%s': %s", path, strerror(e));
    else if (text.len >= 1 << 20 || strlen(text.data) != text.len)
        rc = err_set("'%s' is not a config file (over 1 MiB, or with NUL bytes)", path);
    else
        rc = opt_try_read_text(opts, path, text.data);
    buf_free(&text);
    return rc;
}

/* ---- the command line ---- */

static void print_version(void)
{
    printf("%s %s\n%s", err_program(), SSM_VERSION, SSM_BUILD);
}

static void print_opt(const struct opt *o)
{
    char left[64];
    const char *arg = o->arg ? o->arg : o->kind == OPT_KIND_CHOICE ? o->choices : NULL;
    snprintf(left, sizeof left, "%s%c%s--%s%s%s", o->letter ? "-" : " ", o->letter ? o->letter : ' ',
             o->letter ? ", " : "  ", o->name, arg ? "=" : "", arg ? arg : "");
    struct buf value = { 0 };
    opt_format(o, &value);
    const char *gap = strlen(left) > 29 ? "\n                                " : "";
    printf("  %-29s %s%s", left, gap, o->help);
    if (o->kind != OPT_KIND_FLAG && value.data && *value.data)
        printf(" [%s]", value.data);
    printf("\n");
    buf_free(&value);
}

static void print_help(const struct command *cmd)
{
    printf("usage: %s %s\n%s\n\n", cmd->name, cmd->synopsis, cmd->purpose);
    for (const struct opt *o = cmd->opts; o->kind; o++)
        print_opt(o);
    if (cmd->config)
        printf("      --config=FILE            read 'name = value' lines; the command line wins\n");
    printf("  -q, --quiet                  say nothing but warnings and errors\n"
           "  -v, --verbose                say more\n"
           "  -h, --help                   print this and end\n"
           "  -V, --version                print the version and how it was built, and end\n");
}

static void print_names(const struct command *cmd)
{
    for (const struct opt *o = cmd->opts; o->kind; o++)
        printf("--%s\n", o->name);
    if (cmd->config)
        printf("--config\n");
    printf("--help\n--quiet\n--verbose\n--version\n");
}

static void set_from_line(struct opt *o, const char *text)
{
    if (o->set_by == 2)
        die_usage("option '--%s' is given twice", o->name);
    if (opt_try_set(o, text) < 0)
        die_usage("%s", err_last());
    o->set_by = 2;
}

/* One of the options that every command has; true when it was. Ends the process for --help and --version. */
static bool common_option(const struct command *cmd, const char *name, char letter)
{
    bool speak = err_rank() == 0;
    if (letter == 'h' || (name && strcmp(name, "help") == 0))
        speak ? print_help(cmd) : (void)0;
    else if (letter == 'V' || (name && strcmp(name, "version") == 0))
        speak ? print_version() : (void)0;
    else if (name && strcmp(name, "complete") == 0)
        speak ? print_names(cmd) : (void)0;
    else if (letter == 'q' || (name && strcmp(name, "quiet") == 0)) {
        err_set_verbosity(0);
        return true;
    } else if (letter == 'v' || (name && strcmp(name, "verbose") == 0)) {
        err_set_verbosity(2);
        return true;
    } else
        return false;
    out_close_stdout();
    err_end(EXIT_DONE);
}

static struct opt *find_letter(struct opt *opts, char c)
{
    for (struct opt *o = opts; o->kind; o++)
        if (o->letter == c)
            return o;
    return NULL;
}

/* Handles argv[*i] = "--name", "--name=value" (value possibly in the next argument). */
static void long_option(const struct command *cmd, int argc, char **argv, int *i, const char **config)
{
    char *name = argv[*i] + 2;
    char *eq = strchr(name, '=');
    char *value = eq ? eq + 1 : NULL;
    name = eq ? xasprintf("%.*s", (int)(eq - name), name) : xstrdup(name);
    bool is_config = cmd->config && strcmp(name, "config") == 0;
    struct opt *o = opt_find(cmd->opts, name);
    if (!o && !is_config) {
        if (value || !common_option(cmd, name, 0))
            die_usage("unknown option '--%s'", name);
    } else if (o && o->kind == OPT_KIND_FLAG) {
        set_from_line(o, value ? value : "true");
    } else {
        if (!value && *i + 1 < argc)
            value = argv[++*i];
        if (!value)
            die_usage("option '--%s' needs a value", name);
        if (is_config) {
            if (*config)
                die_usage("option '--config' is given twice");
            *config = value;
        } else
            set_from_line(o, value);
    }
    free(name);
}

static void short_options(const struct command *cmd, int argc, char **argv, int *i)
{
    for (const char *c = argv[*i] + 1; *c; c++) {
        struct opt *o = find_letter(cmd->opts, *c);
        if (!o) {
            if (!common_option(cmd, NULL, *c))
                die_usage("unknown option '-%c'", *c);
        } else if (o->kind == OPT_KIND_FLAG) {
            set_from_line(o, "true");
        } else {
            const char *value = c[1] ? c + 1 : *i + 1 < argc ? argv[++*i] : NULL;
            if (!value)
                die_usage("option '-%c' needs a value", *c);
            set_from_line(o, value);
            return;
        }
    }
}

/* Options and operands begin at argv[first]. */
static _Noreturn void run_command(const struct command *cmd, int argc, char **argv, int first)
{
    char **args = xcalloc((size_t)argc + 1, sizeof *args);
    const char *config = NULL;
    int n = 0;
    meter_start(argc, argv);
    for (int i = first; i < argc; i++) {
        char *a = argv[i];
        if (strcmp(a, "--") == 0) {
            while (++i < argc)
                args[n++] = argv[i];
        } else if (a[0] == '-' && a[1] == '-')
            long_option(cmd, argc, argv, &i, &config);
        else if (a[0] == '-' && a[1])
            short_options(cmd, argc, argv, &i);
        else
            args[n++] = a;
    }
    if (config) {
        if (opt_try_read_file(cmd->opts, config) < 0)
            die_usage("%s", err_last());
        *cmd->config = config;
    }
    if (n < cmd->min_args)
        die_usage("too few arguments: usage: %s %s", cmd->name, cmd->synopsis);
    if (cmd->max_args >= 0 && n > cmd->max_args)
        die_usage("unexpected argument '%s'", args[cmd->max_args]);
    int code = cmd->run(n, args);
    free(args);
    out_close_stdout();
    err_end(code);
}

void command_main(const struct command *cmd, int argc, char **argv) { run_command(cmd, argc, argv, 1); }

static void print_commands(const char *tool, const char *purpose, const struct command *cmds)
{
    printf("usage: %s COMMAND [options] ...\n%s\n\n", tool, purpose);
    for (const struct command *c = cmds; c->name; c++)
        printf("  %-10s %s\n", c->name + strlen(tool) + 1, c->purpose);
    printf("\n'%s COMMAND --help' lists the options of a command.\n", tool);
}

void command_dispatch(const char *tool, const char *purpose, const struct command *cmds, int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "";
    size_t skip = strlen(tool) + 1;
    for (const struct command *c = cmds; c->name; c++)
        if (strcmp(c->name + skip, word) == 0)
            run_command(c, argc, argv, 2);
    bool speak = err_rank() == 0;
    if (strcmp(word, "--complete") == 0) {
        for (const struct command *c = cmds; speak && c->name; c++)
            printf("%s\n", c->name + skip);
    } else if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
        speak ? print_commands(tool, purpose, cmds) : (void)0;
    else if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0)
        speak ? print_version() : (void)0;
    else if (!*word)
        die_usage("which command?");
    else
        die_usage("unknown command '%s'", word);
    out_close_stdout();
    err_end(EXIT_DONE);
}
