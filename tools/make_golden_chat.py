#!/usr/bin/env python3
"""Makes tests/golden/chat/expected.json: what Jinja, set up as transformers does it, makes of chat templates.

    pip install transformers==5.24.0 jinja2==3.1.6
    python tools/make_golden_chat.py

The templates are written in the manner of published ones, for every form of statement and expression these use. Snippets
are small templates for the details. Where Jinja fails, null is kept: ours must fail too.
"""

import json
import pathlib

import jinja2
import transformers
from transformers.utils.chat_template_utils import _compile_jinja_template

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/chat"

TEMPLATES = {
    "chatml": """{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    "chatml_system": """{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}{% endif %}
{% for message in messages %}
    {% if loop.first and message.role == "system" and not message.content %}
        {% continue %}
    {% endif %}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}
{{ "<|im_start|>assistant\\n" if add_generation_prompt else "" }}""",
    "llama2": """{% if messages[0]['role'] == 'system' %}
{% set rest = messages[1:] %}
{% set system = messages[0]['content'] %}
{% else %}
{% set rest = messages %}
{% set system = false %}
{% endif %}
{% for message in rest %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate: user, assistant, user, assistant, ...') }}
{% endif %}
{% if loop.index0 == 0 and system is not false %}
{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}
{% else %}
{% set content = message['content'] %}
{% endif %}
{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}
{% endfor %}""",
    "llama3": """{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}
        {{- tool_call.arguments | tojson }}{{- "}" }}{{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or (message.content is iterable and message.content is not string) %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "zephyr": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
    "mistral": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{#- Roles must alternate, tool calls aside. #}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, conversation roles must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}
                        {{- ", " }}
                    {%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] == "tool" %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content|string + "}[/TOOL_RESULTS]" }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported") }}
    {%- endif %}
{%- endfor %}
""",
    "gemma": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}""",
    "qwen": """{%- macro show(message, deep=false) -%}
    {{- '<|im_start|>' ~ message.role }}
    {%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
    {%- for call in message.tool_calls or [] %}
        {%- set call = call.function if call.function is defined else call %}
        {{- '\\n<tool_call>\\n{"name": "' ~ call.name ~ '", "arguments": ' ~ (call.arguments | tojson) ~ '}\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endmacro -%}
{%- set ns = namespace(multi=true, last=messages|length - 1) -%}
{%- for message in messages[::-1] -%}
    {%- set index = (messages|length - 1) - loop.index0 -%}
    {%- if ns.multi and message.role == "user" and not (message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) -%}
        {%- set ns.multi = false -%}{%- set ns.last = index -%}
    {%- endif -%}
{%- endfor -%}
{%- if tools %}
    {{- '<|im_start|>system\\n# Tools' }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if loop.index0 == ns.last %}{{- '<!-- last question -->\\n' }}{%- endif %}
    {%- if message.role == "tool" %}
        {%- if loop.first or messages[loop.index0 - 1].role != "tool" %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' }}{{- message.content }}{{- '\\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != "tool" %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- elif message.role == "assistant" and '</think>' in message.content %}
        {%- set reasoning = message.content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
        {%- if loop.index0 > ns.last %}
            {{- '<|im_start|>assistant\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content + '<|im_end|>\\n' }}
        {%- else %}
            {{- '<|im_start|>assistant\\n' + content + '<|im_end|>\\n' }}
        {%- endif %}
    {%- else %}
        {{- show(message) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
""",
    "generation": """{% for message in messages %}
{% if message.role == 'assistant' %}
<|{{ message.role }}|>
{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}

{% else %}
<|{{ message.role }}|>
{{ message.content }}
{% endif %}
{% endfor %}""",
}

CHATS = {
    "question": [{"role": "user", "content": "Hello?"}],
    "answer": [{"role": "user", "content": "  Hi there. "}, {"role": "assistant", "content": "\nHello!\n"}],
    "long": [
        {"role": "system", "content": "You answer in verse."},
        {"role": "user", "content": "Was ist größer als 5 \u4e00?"},
        {"role": "assistant", "content": "<think>\nhm, 6\n</think>\n\nSix is."},
        {"role": "user", "content": "And \"7\" <b>&amp;</b>?\n\nReally?"},
        {"role": "assistant", "content": "<think>so</think>Yes, it's \U0001f600."},
    ],
    "empty_system": [{"role": "system", "content": ""}, {"role": "user", "content": "x"}],
    "wrong_order": [{"role": "assistant", "content": "x"}, {"role": "assistant", "content": "y"}],
    "tools": [
        {"role": "user", "content": "What is the weather in Paris?"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris", "days": 3, "exact": 1.5, "now": True, "unit": None}}}]},
        {"role": "tool", "content": "{\"temperature\": 21}"},
        {"role": "tool", "content": "[1, 2]"},
        {"role": "assistant", "content": "It is 21 degrees."},
    ],
}

TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Tells the weather \"now\" in a city’s centre",
          "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 0}}, "required": ["city"]}, "return": {"type": "number"}}}]

SNIPPETS = r"""
{{ 1 + 2 * 3 - 4 // 3 }} {{ 7 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }}
{{ 1.0 }} {{ 1e20 }} {{ 1e-5 }} {{ 0.1 + 0.2 }} {{ 100000.0 }} {{ 1e15 }} {{ 1e16 }} {{ 123456789.125 }} {{ 3.0 * 2 }} {{ 1_000 }} {{ 1e3 }}
{{ true }} {{ false }} {{ none }} {{ True }} {{ None }} {{ missing }}| {{ [1, 'a', "it's", none, true, 1.5, {'k': [2]}] }} {{ (1,) }} {{ (1, 2) }} {{ () }} {{ {} }} {{ "a\\b\n\t'" }} {{ ["a\\b\n\t'", '"', "'\""] }}
{{ "a" ~ 1 ~ none ~ 1.5 ~ true ~ missing }} {{ "a" * 3 }} {{ 2 * "ab" }} {{ [1] * 2 + [3] }} {{ "x" "y" 'z' }} {{ -3 | abs }} {{ -(2) }} {{ +1 }} {{ not true }} {{ - 2 ** 2 }}
{{ 1 < 2 < 3 }} {{ 1 < 2 > 3 }} {{ 1 == 1.0 }} {{ "1" == 1 }} {{ "a" < "b" }} {{ [1, 2] < [1, 3] }} {{ true == 1 }} {{ none == false }} {{ missing == none }} {{ missing == missing2 }} {{ {'a': 1} == {'a': 1.0} }} {{ (1, 2) == [1, 2] }}
{{ 1 in [1, 2] }} {{ 3 not in [1, 2] }} {{ "b" in "abc" }} {{ "k" in {'k': 1} }} {{ 1 in missing }} {{ not 1 in [1] }} {{ "a" in ("a", "b") }}
{{ 1 if true else 2 }} {{ 1 if false }}| {{ 1 if false else 2 if false else 3 }} {{ (1 or 2) and 3 }} {{ 0 or "x" }} {{ "" and 1 }}| {{ none or false }} {{ [] or 'e' }}
{{ "hello"[1] }} {{ "hello"[-1] }} {{ "hello"[1:3] }} {{ "hello"[::-1] }} {{ "hello"[:-1] }} {{ "hello"[10:] }}| {{ [1,2,3,4][1:] }} {{ [1,2,3,4][::2] }} {{ [1,2,3,4][-2:] }} {{ [1,2,3,4][3:0:-1] }} {{ [1,2,3][-10:2] }} {{ [1,2,3][5] }}| {{ "héé字"[1:] }} {{ (1,2,3)[1:] }} {{ [1,2,3][none:2] }} {{ [1,2][0:9:5] }}
{{ {'a': 1, 'b': 2}.a }} {{ {'a': 1}['a'] }} {{ {'a': 1}.x }}| {{ {'a': 1}.get('x') }} {{ {'a': 1}.get('x', 5) }} {{ {'a': 1, 'b': 2}.items() | list }} {{ {'a': 1}.keys() | list }} {{ {'a': 1}.values() | list }} {{ {'items': 3}['items'] }} {{ [1, 2].0 }} {{ [[1, 2], [3]][0][1] }}
{{ "  a b ".strip() }}| {{ "  a ".lstrip() }}| {{ " a  ".rstrip() }}| {{ "xxaxx".strip("x") }} {{ "abcab".strip("ba") }} {{ "\n\ta\n".strip("\n") }}| {{ "a,b,,c".split(",") }} {{ " a  b ".split() }} {{ "a,b,c".split(",", 1) }} {{ "a,b,c".rsplit(",", 1) }} {{ "a\nb\r\nc\n".splitlines() }} {{ "".split() }} {{ "".split(",") }} {{ " a  b c ".split(none, 1) }}
{{ "abc".startswith("ab") }} {{ "abc".endswith(("x", "c")) }} {{ "aXb".upper() }} {{ "AxB".lower() }} {{ "hello wORLD it's".title() }} {{ "hELLO".capitalize() }} {{ "a-b-c".replace("-", "+") }} {{ "a-b-c".replace("-", "", 1) }} {{ ", ".join(["a", "b"]) }} {{ "hello".find("l") }} {{ "hello".find("z") }} {{ "hello".count("l") }} {{ "hello".rfind("l") }} {{ "é字x".index("x") }} {{ "foobar".removeprefix("foo") }} {{ "foobar".removesuffix("bar") }} {{ "12".isdigit() }} {{ "straße é".upper() }}
{{ [1,2,3] | length }} {{ "héllo" | length }} {{ {'a': 1} | count }} {{ missing | length }} {{ missing | default("d") }} {{ none | default("d") }} {{ "" | default("d", true) }} {{ none | d("e", boolean=true) }} {{ missing | default }}|
{{ [1, 2] | join }} {{ ["a", 1, none] | join("-") }} {{ [{'a': 1}, {'a': 2}] | join(",", attribute="a") }} {{ [3,1,2] | first }} {{ [3,1,2] | last }} {{ "abc" | first }} {{ [] | first }}| {{ [] | last }}| {{ "abc" | last }}
{{ {'b': 1, 'a': [1, 2.5, none, true, "é\n\"\\/\u0001<&>'"]} | tojson }} {{ {'b': {'c': []}, 'a': {}} | tojson(indent=2) }} {{ [] | tojson }} {{ "x" | tojson }} {{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }} {{ [1, [2, {'x': 3}]] | tojson(indent=1) }} {{ 1e100 | tojson }} {{ 5.0 | tojson }}
{{ " x " | trim }}| {{ "xyx" | trim("x") }} {{ "aB" | upper }} {{ "aB" | lower }} {{ "it's a-test" | title }} {{ "aB cD" | capitalize }} {{ 5 | string }} {{ "5" | int }} {{ "5.7" | int }} {{ "x" | int }} {{ "x" | int(9) }} {{ 5.9 | int }} {{ -5.9 | int }} {{ "2.5" | float }} {{ "x" | float }} {{ true | int }} {{ " 7 " | int }} {{ "abc" | list }} {{ {'a': 1} | list }} {{ {'a': 1} | items | list }}
{{ [1,2,3,4] | select("odd") | list }} {{ [1,2,3,4] | reject("odd") | list }} {{ [0, 1, "", "a"] | select | list }} {{ [{'r': 'u', 'c': 1}, {'r': 'a', 'c': 2}] | selectattr("r", "equalto", "u") | map(attribute="c") | list }} {{ [{'r': 'u'}, {}] | selectattr("r", "defined") | list }} {{ [{'r': 'u'}, {'r': ''}] | rejectattr("r") | list }} {{ ["a", "b"] | map("upper") | join("") }} {{ [{'a': {'b': 1}}] | map(attribute="a.b") | list }} {{ [{'a': 1}, {}] | map(attribute="a", default=0) | list }} {{ [1,2,3] | select(">", 1) | list }} {{ [1, 2] | select("in", [2, 3]) | list }}
{{ [3,1,2] | sort }} {{ ["b", "A", "a"] | sort }} {{ ["b", "A", "a"] | sort(case_sensitive=true) }} {{ [3,1,2] | sort(reverse=true) }} {{ [{'a': 2}, {'a': 1}] | sort(attribute="a") }} {{ {'b': 1, 'a': 2} | dictsort }} {{ {'b': 1, 'a': 2} | dictsort(by="value") }} {{ [1, 2, 1, "a", "A"] | unique | list }} {{ [1,2,3] | reverse | list }} {{ "abc" | reverse }} {{ [3,1,2] | min }} {{ [3,1,2] | max }} {{ [1, 2] | sum }} {{ "a\nb\n\nc" | indent }} {{ "a\nb\n\nc" | indent(2, true) }} {{ "a\nb" | indent("> ", first=true, blank=true) }} {{ 2.5 | round }} {{ 3.14159 | round(2) }} {{ 2.1 | round(method="ceil") }} {{ "a.b" | replace(".", "-") }} {{ "<a href='x'>&\"" | escape }} {{ "<b>" | safe }}
{{ 1 is defined }} {{ missing is defined }} {{ missing is not defined }} {{ none is none }} {{ "a" is string }} {{ 1 is number }} {{ 1 is integer }} {{ 1.5 is float }} {{ true is boolean }} {{ true is true }} {{ 1 is true }} {{ {} is mapping }} {{ [] is iterable }} {{ "" is iterable }} {{ 1 is iterable }} {{ [] is sequence }} {{ {} is sequence }} {{ 3 is odd }} {{ 3 is even }} {{ 6 is divisibleby 3 }} {{ 6 is divisibleby(4) }} {{ 1 is eq 1 }} {{ 1 is ne(2) }} {{ 1 is lt 2 }} {{ "a" is in ["a"] }} {{ "ab" is lower }} {{ "AB" is upper }} {{ none is sameas none }} {{ range is callable }} {{ true is number }} {{ true is integer }} {{ missing is iterable }} {{ 1 is not none and 2 is not string }}
{% for i in range(3) %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('x', 'y') }};{% endfor %}
{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }}{% if not loop.last %}, {% endif %}{% endfor %}{% for x in [] %}x{% else %}none{% endfor %}{% for x in [1, 2, 3, 4] if x is even %}{{ x }}{{ loop.index }}{% endfor %}{% for x in missing %}x{% else %}empty{% endfor %}{% for (a, b) in [[1, 2]] %}{{ a + b }}{% endfor %}{% for c in "aé" %}[{{ c }}]{% endfor %}{% for k in {'x': 1} %}{{ k }}{% endfor %}
{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i > 4 %}{% break %}{% endif %}{{ i }}{% endfor %}{% for i in range(2) %}{% for j in range(2) %}{{ i }}{{ j }}{{ loop.index }} {% endfor %}{{ loop.index }}{% endfor %} {{ range(1, 10, 3) | list }} {{ range(5, 0, -2) | list }} {{ range(0) | list }}
{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}{% if true %}{% set x = 3 %}{% endif %}{{ x }}{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set t = 1, 2 %}{{ t }}{% set ns = namespace(n=0) %}{% for i in range(3) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}{% set ns.new = "v" %}{{ ns.new }}{{ ns.none_such }}|
{% set block %}  a {{ 1 + 1 }}
b{% endset %}[{{ block }}]{% set upper | upper | trim %} abc {% endset %}[{{ upper }}]{% filter upper %}abc {{ "d" }}{% endfilter %}{% set y %}{% set inner = 1 %}{% endset %}{{ inner is defined }}
{% macro m(a, b=2, c="x" ~ "y") %}{{ a }}-{{ b }}-{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(1, c="z") }} {{ m() }} {{ m(b=5, a=4) | upper }}{% set outer = "o" %}{% macro sees() %}{{ outer }}{{ hidden }}{% endmacro %}{% for hidden in [1] %}{{ sees() }}{% endfor %}{% macro fact(n) %}{{ n if n < 2 else n * (fact(n - 1) | int) }}{% endmacro %}{{ fact(5) }}
a {#- gone -#} b {# kept #} c {{- 1 -}} d {%- if true -%} e {%- endif -%} f {{ "g" -}}   h
  {% if true %}
    line
  {% endif %}
  {{ "kept" }}
 x {% if true %}y{% endif %} z
{%+ if true %}p{% endif +%}
  {%- if true %}   q{% endif -%}   r
{% raw %}{{ not }} {% if %}{% endraw %} {%- raw -%}  x  {%- endraw %} {{ '{{' }} {{ "}}" }} {{ {'a': {'b': 1}}['a'] }} {{ {"a": {}} }}
{% if false %}a{% elif missing %}b{% elif 1 %}c{% else %}d{% endif %}{% if missing %}a{% else %}e{% endif %}{% if not missing and [] is not none %}f{% endif %}{% if 0 %}{% elif 0 %}{% endif %}
{{ "\u00e9\x41\101"[:2] }} {{ 'it\'s' }} {{ "tab\tend" }} {{ "a\
b" }} {{ dict(a=1, b=2) }} {{ dict({'x': 1}, y=2) }} {{ namespace(a=1).a }} {{ "%s" if false else "ok" }} {{ [1, 2,] }} {{ {'a': 1,} }}
{{ missing.attribute }}
{{ none.attribute }}| {{ none.a is defined }} {{ 1.5.x is defined }}
{{ missing() }}
{{ "a" + 1 }}
{{ "a" + missing }}
{{ 1 / 0 }}
{{ "x".nothing() }}
{{ [1] | nosuchfilter }}
{{ 1 is nosuchtest }}
{% nosuchblock %}
{% if true %}
{{ 1 +
{{ (1 }}
{% for x in 1 %}{% endfor %}
{{ "a" < 1 }}
{{ 1 in 1 }}
{% set x.y = 1 %}
{{ "abc" | tojson(bad=1) }}
{% break %}
{{ raise_exception("no") }}
{{ range(1000000) }}
{{ [1, 2].append(3) }}
{% endif %}
{{ 'a }}
{{ "a" if }}
{{ 5 | upper }} {{ none | upper }} {{ true | string | lower }} {{ missing | upper }}| {{ missing ~ "x" }} {{ missing | trim }}| {{ missing | join(",") }}| {{ missing | list }} {{ none | string }} {{ [none] | string }}
{{ messages | map(attribute='role') | join(',') }} {{ messages[-1].content }} {{ messages[0]['role'] }} {{ messages | length }} {{ bos_token }}{{ eos_token }} {{ add_generation_prompt }} {{ messages | last | tojson }}
""".strip("\n")


def snippets():
    """A line each, but for those that go on over several: these begin with a blank, or end in the middle of a tag."""
    out, current = [], ""
    lines = SNIPPETS.split("\n")
    for i, line in enumerate(lines):
        current += line
        following = lines[i + 1] if i + 1 < len(lines) else "{{"
        if line.endswith("\\") or not following.startswith(("{{", "{% ", "a {#")) or current.startswith("  {%") and "r" != line[-1:]:
            current += "\n"
            continue
        out.append(current)
        current = ""
    return out


def render(template, messages, tools=None, prompt=False):
    try:
        compiled = _compile_jinja_template(template)
        return compiled.render(messages=messages, tools=tools, documents=None, add_generation_prompt=prompt,
                               bos_token="<s>", eos_token="</s>")
    except Exception:
        return None


def main():
    cases = []
    for name, template in TEMPLATES.items():
        for chat, messages in CHATS.items():
            for prompt in (False, True):
                for tools in ([None, TOOLS] if chat in ("question", "tools") else [None]):
                    cases.append({"template": name, "chat": chat, "prompt": prompt, "tools": tools is not None,
                                  "text": render(template, messages, tools, prompt)})
    OUT.mkdir(parents=True, exist_ok=True)
    expected = {
        "jinja2": jinja2.__version__,
        "transformers": transformers.__version__,
        "templates": TEMPLATES,
        "chats": CHATS,
        "tools": TOOLS,
        "cases": cases,
        "snippets": [{"template": s, "text": render(s, CHATS["answer"])} for s in snippets()],
    }
    (OUT / "expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    print(sum(c["text"] is None for c in cases), "of", len(cases), "refused;",
          [s["template"][:50] for s in expected["snippets"] if s["text"] is None])


if __name__ == "__main__":
    main()
